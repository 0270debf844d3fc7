"""A GPU made of host memory: device sides of adapters run on it as they are, their kernels by `run_on_host`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np

from convkit.cuda import Argument, ArrayView, LaunchConfig, Variant, stand_in
from convkit.errors import KernelArgumentError
from convkit.testing.cuda_host._run import run_on_host

__all__ = ["HostArray", "HostDevice", "host_device"]

_NUMBER = 1 << 16
"""The number of the device; no GPU has it, so that nothing that is kept by device number is mixed up."""
_ALIGNMENT = 256
_STREAM = 1
_UNINITIALISED = 0xFF
"""What new memory is filled with: NaN in every floating-point type."""


class HostArray:
    """An array in the memory of a `HostDevice`. ``values`` is its content as a NumPy array, which shares the memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.shape, self.dtype, self.nbytes, self.itemsize = values.shape, values.dtype, values.nbytes, values.itemsize
        self.device = SimpleNamespace(id=_NUMBER)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The array as libraries for GPUs see it; it is in host memory all the same."""
        return {**self.values.__array_interface__, "version": 3}


class HostDevice:
    """Memory and launchers of a GPU that does not exist. Use it within `host_device`."""

    stream = _STREAM
    """The address of its stream; whatever is launched has run when the launch returns."""

    def __init__(self) -> None:
        self._allocations: dict[int, np.ndarray] = {}

    def allocate(self, shape: Sequence[int], dtype: str, *, channels_last: bool = False) -> HostArray:
        """Return an array whose bytes are all 0xFF; channels-last arrays have the shape [N, C, ...] all the same."""
        shape = tuple(shape)
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        raw = np.full(count * kind.itemsize + _ALIGNMENT, _UNINITIALISED, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        memory = raw[start : start + count * kind.itemsize]
        self._allocations[memory.ctypes.data] = memory
        if channels_last:
            return HostArray(np.moveaxis(memory.view(kind).reshape(shape[0], *shape[2:], shape[1]), -1, 1))
        return HostArray(memory.view(kind).reshape(shape))

    def upload(self, values: np.ndarray, *, channels_last: bool = False) -> HostArray:
        """Return a copy of an array."""
        array = self.allocate(values.shape, values.dtype.name, channels_last=channels_last)
        array.values[...] = values
        return array

    def clear(self, array: HostArray, stream: int, count: int | None = None) -> bool:
        """Set an array, or its first ``count`` values, to 0."""
        del stream
        array.values.reshape(-1)[:count] = 0
        return True

    def load(self, variant: Variant) -> _HostLauncher:
        """Return what launches a variant on the host."""
        return _HostLauncher(self, variant)

    def memory_from(self, address: int) -> np.ndarray | None:
        """Return the bytes of an allocation from an address to its end."""
        for start, memory in self._allocations.items():
            if start <= address < start + memory.nbytes:
                return memory[address - start :]
        return None


class _HostLauncher:
    """Takes the place of `convkit.cuda.Launcher`."""

    device = _NUMBER

    def __init__(self, device: HostDevice, variant: Variant) -> None:
        self._device, self.variant = device, variant

    def launch_config(self, **sizes: int) -> LaunchConfig:
        """Return the launch configuration for these sizes."""
        return self.variant.launch_config(**sizes).check()

    def __call__(self, launch: LaunchConfig, *arguments: Any, stream: Any = None) -> None:
        """Run the kernel; accesses outside of the arrays are errors."""
        del stream
        declared = self.variant.kernel.arguments
        if len(arguments) != len(declared):
            raise KernelArgumentError(
                f"{self.variant.label} takes {len(declared)} arguments, {len(arguments)} were given."
            )
        values = [
            self._memory(argument, value) if argument.pointer else value
            for argument, value in zip(declared, arguments, strict=True)
        ]
        arrays = [
            (argument.output, value)
            for argument, value in zip(declared, values, strict=True)
            if isinstance(value, np.ndarray)
        ]
        # A guarded run works on copies, which must not be copies of the same bytes.
        shared = any((a or b) and np.may_share_memory(x, y) for (a, x), (b, y) in combinations(arrays, 2))
        run_on_host(self.variant, launch, values, guard=not shared)

    def _memory(self, argument: Argument, value: Any) -> np.ndarray | None:
        """Return the memory of an array, or from an address on, flat and in the declared dtype."""
        name, dtype = argument.name, self.variant.dtype(argument)
        kind = np.dtype("uint16" if dtype == "bfloat16" else dtype)
        size = None
        if isinstance(value, int):
            address = value
        else:
            view = ArrayView.of(name, value)
            if view.dtype not in (dtype, kind.name):
                raise KernelArgumentError(f"{self.variant.label}: {name!r} has dtype {view.dtype}, not {dtype}.")
            address = view.address
            size = (view.extent() + 1) * kind.itemsize if view.contiguous else None
        if not address:
            return None
        if address % self.variant.alignment(argument):
            raise KernelArgumentError(
                f"{self.variant.label}: {name!r} is at address {address:#x}, which is not a multiple of "
                f"{self.variant.alignment(argument)}."
            )
        memory = self._device.memory_from(address)
        if memory is None:
            raise KernelArgumentError(f"{self.variant.label}: {name!r} is at {address:#x}, which is not on the device.")
        memory = memory[: size or memory.nbytes // kind.itemsize * kind.itemsize]
        return memory.view(kind)


@contextmanager
def host_device() -> Iterator[HostDevice]:
    """Let a device made of host memory take the place of the GPU, for everything that goes through `convkit.cuda`.

    Within, `convkit.cuda.load`, ``upload``, ``allocate`` and ``clear`` work on that device, and ``import cupy`` fails,
    so that a GPU that is there is left alone. It holds for the whole process: use it in tests, and make device sides
    anew.
    """
    device = HostDevice()
    with stand_in(device), _without("cupy"):
        yield device


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Let imports of a package and its modules fail."""
    modules: dict[str, Any] = sys.modules
    known = {name: module for name, module in modules.items() if f"{name}.".startswith(f"{package}.")}
    modules.update(dict.fromkeys((package, *known), None))
    try:
        yield
    finally:
        del modules[package]
        modules.update(known)
