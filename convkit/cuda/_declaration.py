"""Declarations: what a kernel is called, takes and needs, and the variants that its constants make of it."""

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

__all__ = ["C_TYPES", "SCALARS", "Argument", "Bound", "Constant", "Kernel", "Launch", "Variant", "itemsize"]

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
"""The dtypes of arguments that are no pointers."""
_SIZES = {"bool": 1, "bfloat16": 2}
_LIMITS = {"grid": (2**31 - 1, 65535, 65535), "block": (1024, 1024, 64)}

Constant = bool | int | float | str


def itemsize(dtype: str) -> int:
    """Return the bytes of one value of a dtype, for geometries that depend on it."""
    return _SIZES[dtype] if dtype in _SIZES else int("".join(filter(str.isdigit, dtype))) // 8


@dataclass(frozen=True)
class Argument:
    """One argument of an entry point: a pointer to ``dtype``, or a scalar where ``pointer`` is false.

    ``dtype`` is a key of `C_TYPES` or the name of a constant that holds one. ``output`` says that the kernel writes
    there. ``alignment`` is what the address must be a multiple of, in bytes; 0 means the size of one value.
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
class Bound:
    """What the compiler may use at most: registers a thread, static shared memory a block and spills, in bytes."""

    registers: int = 255
    shared: int = 48 * 1024
    spills: int = 0


@dataclass(frozen=True)
class Launch:
    """A launch geometry: blocks of the grid and threads of a block in x, y and z, dynamic shared memory in bytes.

    The entries are ints, or symbols where a geometry is traced. ``resident`` is how many blocks a multiprocessor is to
    hold at a time: with it, what these leave of its memory goes to the L1 cache; 0 leaves the division to the driver.
    """

    grid: tuple[Any, Any, Any]
    block: tuple[Any, Any, Any]
    shared: Any = 0
    resident: int = 0

    def check(self) -> Launch:
        """Return the same launch; raise `KernelArgumentError` if no GPU can do it."""
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
        if type(self.shared) is not int or self.shared < 0:
            raise KernelArgumentError(f"The dynamic shared memory must be a number of bytes; it is {self.shared!r}.")
        return self


@dataclass(frozen=True)
class Kernel:
    """The declaration of a kernel: an ``extern "C"`` entry point of a ``.cu`` file.

    ``geometry`` is called by keyword with those sizes and constants that its parameters name. ``least`` is the oldest
    compute capability. ``specific`` means that the kernel uses the architecture-specific instructions of ``least``
    and runs there alone: least=90 compiles for ``sm_90a``.

    Raises:
        KernelError: the declaration contradicts itself.
    """

    name: str
    source: Path
    arguments: tuple[Argument, ...]
    geometry: Callable[..., Launch]
    sizes: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    least: int = 75
    bound: Bound = Bound()
    options: tuple[str, ...] = ()
    specific: bool = False
    parameters: frozenset[str] = field(init=False, repr=False, compare=False)
    """The sizes and constants that ``geometry`` takes."""

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
        parameters = frozenset(inspect.signature(self.geometry).parameters)
        object.__setattr__(self, "parameters", parameters)
        unknown = parameters - {*self.sizes, *self.constants}
        if unknown:
            raise KernelError(
                f"Kernel {self.name!r}: its geometry takes {', '.join(sorted(unknown))}, neither size nor constant."
            )

    def variant(self, **constants: Constant) -> Variant:
        """Return the variant that these constants make: each a bool, int, float or the name of a dtype.

        Raises:
            KernelError: a constant is missing, unknown or of another type.
        """
        return Variant(self, tuple(constants.items()))

    def runs_on(self, capability: int) -> bool:
        """Tell whether the kernel runs on GPUs of a compute capability such as 75 or 90."""
        return capability == self.least if self.specific else capability >= self.least

    def target(self, capability: int, kind: str) -> str:
        """Return the compiler's name of a target: ``sm_90`` for the kind cubin, ``compute_90`` for ptx."""
        return f"{'sm' if kind == 'cubin' else 'compute'}_{capability}{'a' if self.specific else ''}"


@dataclass(frozen=True, eq=False)
class Variant:
    """A kernel with values for its constants: what is compiled. Equal variants have the same text and declaration."""

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
        """The variant in words: ``convkit_warp[T=float16, CHANNELS=3]``."""
        values = ", ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.kernel.name}[{values}]" if values else self.kernel.name

    def dtype(self, argument: Argument) -> str:
        """Return the dtype that an argument has in this variant."""
        return argument.dtype if argument.dtype in C_TYPES else str(dict(self.constants)[argument.dtype])

    def alignment(self, argument: Argument) -> int:
        """Return what the address of a pointer argument must be a multiple of, in bytes."""
        return argument.alignment or itemsize(self.dtype(argument))

    def text(self) -> str:
        """Return the self-contained source that is compiled: the defines of the constants, then the flat file."""
        return self.defines + flatten(self.kernel.source)

    def geometry(self, **sizes: Any) -> Launch:
        """Return the launch for sizes that are ints, symbols, or both.

        Raises:
            KernelArgumentError: a size is missing, unknown or negative.
        """
        if sizes.keys() != set(self.kernel.sizes):
            raise KernelArgumentError(
                f"The geometry of {self.kernel.name} depends on {', '.join(self.kernel.sizes) or 'nothing'}; "
                f"given: {', '.join(sizes) or 'nothing'}."
            )
        for name, value in sizes.items():
            if isinstance(value, (int, float)) and (type(value) is not int or value < 0):
                raise KernelArgumentError(f"The size {name} of {self.kernel.name} is {value!r}, no int from 0 up.")
        known: Mapping[str, Any] = {**sizes, **dict(self.constants)}
        return self.kernel.geometry(**{name: known[name] for name in self.kernel.parameters})

    def trace(self) -> Launch:
        """Return the launch as symbols over the names of the sizes.

        Raises:
            KernelError: the geometry does with a size what a symbol cannot do.
        """
        try:
            return self.geometry(**{name: Symbol.size(name) for name in self.kernel.sizes})
        except TypeError as error:
            raise KernelError(f"The geometry of {self.label} cannot be traced. {error}") from error


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
