"""Declarations of kernels, and variants: a kernel with values for its constants."""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convkit.cuda._source import flatten
from convkit.cuda._symbols import Symbol
from convkit.errors import KernelArgumentError, KernelError

__all__ = [
    *("C_TYPES", "SCALARS", "Argument", "Constant", "Kernel", "LaunchConfig", "ResourceLimit"),
    *("Variant", "itemsize"),
]

C_TYPES = {
    "bool": "bool",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int16": "short",
    "uint16": "unsigned short",
    "int32": "int",
    "uint32": "unsigned",
    "int64": "long long",
    "uint64": "unsigned long long",
    "float16": "half_t",
    "bfloat16": "bfloat16_t",
    "float32": "float",
    "float64": "double",
}
"""The C type of each dtype."""
SCALARS = ("int32", "uint32", "int64", "float32")
"""The dtypes of scalar arguments."""
_SIZES = {"bool": 1, "bfloat16": 2}
_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}

Constant = bool | int | float | str


def itemsize(dtype: str) -> int:
    """Return the size of one value of a dtype in bytes."""
    return _SIZES[dtype] if dtype in _SIZES else int("".join(filter(str.isdigit, dtype))) // 8


@dataclass(frozen=True)
class Argument:
    """One argument of an entry point: a pointer to ``dtype``, or a scalar where ``pointer`` is false.

    ``dtype`` is a key of `C_TYPES` or the name of a constant whose value is one. ``output`` marks memory that the
    kernel writes. The address must be a multiple of ``alignment`` bytes; 0 means the size of one value.
    """

    name: str
    dtype: str
    output: bool = False
    pointer: bool = True
    alignment: int = 0

    def __post_init__(self) -> None:
        if self.alignment & (self.alignment - 1) or self.alignment < 0:
            raise KernelError(f"Argument {self.name!r}: alignment {self.alignment} is not a power of two.")
        if not self.pointer and (self.output or self.alignment):
            raise KernelError(f"Argument {self.name!r} is a scalar: it has no alignment and is never written.")
        if not self.pointer and self.dtype not in SCALARS:
            raise KernelError(
                f"Argument {self.name!r}: a scalar cannot be {self.dtype!r}.", hint=f"It can be {', '.join(SCALARS)}."
            )


@dataclass(frozen=True)
class ResourceLimit:
    """The most that the compiler may use: registers and bytes of spills per thread, static shared memory per block."""

    registers: int = 255
    static_smem_bytes: int = 48 * 1024
    spill_bytes: int = 0


@dataclass(frozen=True)
class LaunchConfig:
    """A launch configuration: blocks of the grid and threads of a block in x, y and z, and dynamic shared memory.

    The entries are ints, or symbols where a launch configuration is traced. Where ``min_blocks_per_sm`` is not 0, the
    launcher asks the driver for just the shared memory that so many blocks need; the L1 cache gets the rest.
    """

    grid: tuple[Any, Any, Any]
    block: tuple[Any, Any, Any]
    dynamic_smem_bytes: Any = 0
    min_blocks_per_sm: int = 0

    def check(self) -> LaunchConfig:
        """Return the same object; raise `KernelArgumentError` if no GPU can run it."""
        for name, limits in _LIMITS.items():
            values = getattr(self, name)
            if len(values) != 3 or any(type(value) is not int for value in values):
                raise KernelArgumentError(f"The {name} must be three ints; it is {values!r}.")
            if any(not 0 < value <= limit for value, limit in zip(values, limits, strict=True)):
                raise KernelArgumentError(
                    f"The {name} {values} is empty or above the limit of {limits}.",
                    hint="Give sizes that are positive, or split the batch.",
                )
        if math.prod(self.block) > 1024:
            raise KernelArgumentError(f"The block {self.block} has more than 1024 threads.")
        size = self.dynamic_smem_bytes
        if type(size) is not int or size < 0:
            raise KernelArgumentError(f"The dynamic shared memory must be a number of bytes; it is {size!r}.")
        return self


@dataclass(frozen=True)
class Kernel:
    """The declaration of a kernel: an ``extern "C"`` entry point of a ``.cu`` file.

    ``launch_config`` returns the launch configuration; it is called by keyword with the sizes and constants that its
    parameters name. ``arch_specific`` means that the kernel uses architecture-specific instructions and runs on
    ``min_compute_capability`` only: 90 then compiles for ``sm_90a``. `check_limit` compares a cubin with ``limit``.

    Raises:
        KernelError: the declaration contradicts itself.
    """

    name: str
    source: Path
    arguments: tuple[Argument, ...]
    launch_config: Callable[..., LaunchConfig]
    sizes: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    min_compute_capability: int = 75
    limit: ResourceLimit = ResourceLimit()
    options: tuple[str, ...] = ()
    arch_specific: bool = False
    parameters: frozenset[str] = field(init=False, repr=False, compare=False)
    """The sizes and constants that ``launch_config`` takes."""

    def __post_init__(self) -> None:
        names = [argument.name for argument in self.arguments]
        for name in (self.name, *names, *self.sizes, *self.constants):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
                raise KernelError(f"Kernel {self.name!r}: {name!r} is not a name.")
        for what, group in (("argument", names), ("size or constant", [*self.sizes, *self.constants])):
            for name in {name for name in group if group.count(name) > 1}:
                raise KernelError(f"Kernel {self.name!r} declares the {what} {name!r} twice.")
        for argument in self.arguments:
            if argument.dtype not in C_TYPES and argument.dtype not in self.constants:
                raise KernelError(
                    f"Kernel {self.name!r}: the dtype {argument.dtype!r} of {argument.name!r} is neither a dtype nor "
                    "one of its constants."
                )
        parameters = frozenset(inspect.signature(self.launch_config).parameters)
        object.__setattr__(self, "parameters", parameters)
        unknown = parameters - {*self.sizes, *self.constants}
        if unknown:
            raise KernelError(
                f"Kernel {self.name!r}: launch_config takes {', '.join(sorted(unknown))}, neither size nor constant."
            )

    def variant(self, **constants: Constant) -> Variant:
        """Return the variant that these constants make: each a bool, int, float or the name of a dtype.

        Raises:
            KernelError: a constant is missing, unknown or of another type.
        """
        return Variant(self, tuple(constants.items()))

    def runs_on(self, capability: int) -> bool:
        """Return whether the kernel runs on GPUs of a compute capability such as 75 or 90."""
        least = self.min_compute_capability
        return capability == least if self.arch_specific else capability >= least

    @property
    def capabilities(self) -> str:
        """The compute capabilities that the kernel runs on, for messages."""
        only = "only" if self.arch_specific else "or newer"
        return f"compute capability {self.min_compute_capability} {only}"

    def target(self, capability: int, kind: str) -> str:
        """Return the compiler's name of a target: ``sm_90`` for the kind cubin, ``compute_90`` for ptx."""
        return f"{'sm' if kind == 'cubin' else 'compute'}_{capability}{'a' if self.arch_specific else ''}"


@dataclass(frozen=True, eq=False)
class Variant:
    """A kernel with values for its constants, ready to compile. Equal variants have the same text and declaration."""

    kernel: Kernel
    constants: tuple[tuple[str, Constant], ...]
    defines: str = field(init=False, repr=False)
    """The ``#define`` lines of the constants."""

    def __post_init__(self) -> None:
        given, declared = dict(self.constants), self.kernel.constants
        missing, unknown = [n for n in declared if n not in given], [n for n in given if n not in declared]
        if missing or unknown:
            wrong = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has no {', '.join(unknown)}"] * bool(unknown)
            raise KernelError(
                f"A variant of {self.kernel.name!r} {' and '.join(wrong)}.",
                hint=f"Its constants are {', '.join(declared) or 'none'}.",
            )
        ordered = tuple((name, given[name]) for name in declared)
        object.__setattr__(self, "constants", ordered)
        lines = (f"#define {name} {_render(self.kernel.name, name, value)}\n" for name, value in ordered)
        object.__setattr__(self, "defines", "".join(lines))
        for argument in self.kernel.arguments:
            if self.dtype(argument) not in C_TYPES:
                raise KernelError(f"{self.label}: {argument.dtype} is the dtype of {argument.name!r}; give a dtype.")
        object.__setattr__(self, "_hash", hash((self.kernel, self.defines)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Variant):
            return NotImplemented
        return self is other or (self.defines == other.defines and self.kernel == other.kernel)

    def __hash__(self) -> int:
        return int(self._hash)  # type: ignore[attr-defined]

    @property
    def label(self) -> str:
        """The kernel with its constants for messages: ``convkit_warp[T=float16, CHANNELS=3]``."""
        values = ", ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.kernel.name}[{values}]" if values else self.kernel.name

    def dtype(self, argument: Argument) -> str:
        """Return the dtype that an argument has in this variant."""
        return argument.dtype if argument.dtype in C_TYPES else str(dict(self.constants)[argument.dtype])

    def alignment(self, argument: Argument) -> int:
        """Return the alignment in bytes that the address of a pointer argument must have."""
        return argument.alignment or itemsize(self.dtype(argument))

    def text(self) -> str:
        """Return the self-contained source that is compiled: defines of the constants, then the flat file."""
        return self.defines + flatten(self.kernel.source)

    def launch_config(self, **sizes: Any) -> LaunchConfig:
        """Return the launch configuration for sizes that are ints, symbols, or both.

        Raises:
            KernelArgumentError: a size is missing, unknown or negative.
        """
        if sizes.keys() != set(self.kernel.sizes):
            raise KernelArgumentError(
                f"The launch_config of {self.kernel.name} depends on {', '.join(self.kernel.sizes) or 'nothing'}; "
                f"given: {', '.join(sizes) or 'nothing'}."
            )
        for name, value in sizes.items():
            if isinstance(value, (int, float)) and (type(value) is not int or value < 0):
                raise KernelArgumentError(f"The size {name} of {self.kernel.name} is {value!r}, not an int >= 0.")
        known: Mapping[str, Any] = {**sizes, **dict(self.constants)}
        return self.kernel.launch_config(**{name: known[name] for name in self.kernel.parameters})

    def trace(self) -> LaunchConfig:
        """Return the launch configuration as symbols over the names of the sizes.

        Raises:
            KernelError: the function uses an operation that symbols lack.
        """
        try:
            return self.launch_config(**{name: Symbol.size(name) for name in self.kernel.sizes})
        except TypeError as error:
            raise KernelError(f"The launch configuration of {self.label} cannot be traced. {error}") from error


def _render(kernel: str, name: str, value: Any) -> str:
    """Return the text of a constant in C."""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is int and -(2**63) < value < 2**63:
        text = f"{value}LL" if abs(value) >= 2**31 else str(value)
        return f"({text})" if value < 0 else text
    if type(value) is float and abs(value) <= 3.4028234663852886e38:
        return f"({value!r}f)" if value < 0 else f"{value!r}f"
    if type(value) is str and value in C_TYPES:
        return C_TYPES[value]
    raise KernelError(
        f"Kernel {kernel!r}: the constant {name} cannot be {value!r}.",
        hint=f"It can be a bool, an int, a finite float, or a dtype: {', '.join(C_TYPES)}.",
    )
