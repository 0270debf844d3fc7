"""Arrays in GPU memory as kernels see them, from whatever library holds them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.errors import KernelArgumentError

__all__ = ["READERS", "ArrayView", "PointerReader", "pointer_reader"]

PointerReader = Callable[[Any], tuple[int, str, int]]
"""Returns address, dtype name and device number of an array."""

READERS: dict[type, PointerReader] = {}
"""The readers of the types that were met so far."""
_numpy_names: dict[np.dtype[Any], str] = {}


@dataclass(frozen=True, slots=True)
class ArrayView:
    """A description of an array in GPU memory, without a reference to it.

    ``strides`` count elements; ``dtype`` is a name such as ``bfloat16``; ``device`` is the number of the GPU.
    A launcher takes a view in the place of its array.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    address: int = 0
    device: int = 0

    @classmethod
    def of(cls, name: str, value: Any) -> ArrayView:
        """Return the view of a torch tensor, a cupy array or an object with ``__cuda_array_interface__``.

        ``name`` is what error messages call it.

        Raises:
            KernelArgumentError: the value is no array, or not on a GPU.
        """
        kind = type(value)
        if kind is cls:
            return value  # type: ignore[no-any-return]
        address, dtype, device = (READERS.get(kind) or pointer_reader(kind, name))(value)
        if device < 0:
            raise KernelArgumentError(f"{name!r} is in host memory, not on a GPU.")
        if hasattr(value, "data_ptr"):
            return cls(tuple(value.shape), tuple(value.stride()), dtype, address, device)
        interface = value.__cuda_array_interface__
        shape, steps = tuple(interface["shape"]), interface.get("strides")
        if steps is None:
            return cls(shape, contiguous_strides(shape), dtype, address, device)
        size = np.dtype(interface["typestr"]).itemsize
        return cls(shape, tuple(step // size for step in steps), dtype, address, device)

    def step(self, axis: int) -> int:
        """Return the stride of an axis, 0 where the axis has one entry."""
        return self.strides[axis] if self.shape[axis] > 1 else 0

    def extent(self, start: int = 0) -> int:
        """Return the distance in elements from the first to the last entry along the axes from ``start`` on."""
        return sum(self.step(axis) * (self.shape[axis] - 1) for axis in range(start, len(self.shape)))

    @property
    def contiguous(self) -> bool:
        """Whether the array is dense in C order; strides of axes with one entry do not matter."""
        return self._has(contiguous_strides(self.shape))

    @property
    def channels_last(self) -> bool:
        """Whether the array [N, C, ...] is dense with its channels innermost."""
        if len(self.shape) < 3:
            return False
        batch, channels, *spatial = self.shape
        outer, *middle, inner = contiguous_strides((batch, *spatial, channels))
        return self._has((outer, inner, *middle))

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Raise `KernelArgumentError` unless the array has that shape."""
        if self.shape != tuple(shape):
            raise KernelArgumentError(f"{name!r} has the shape {list(self.shape)}; expected {list(shape)}.")

    def check_contiguous(self, name: str, shape: Sequence[int] | None = None) -> None:
        """Raise `KernelArgumentError` unless the array is contiguous and has that shape, where one is given."""
        if shape is not None:
            self.check_shape(name, shape)
        if not self.contiguous:
            raise self.layout_error(name, "Make it contiguous.")

    def check_dense(self, name: str) -> None:
        """Raise `KernelArgumentError` unless the array is contiguous or channels-last."""
        if not (self.contiguous or self.channels_last):
            raise self.layout_error(name)

    def layout_error(self, name: str, hint: str = "Make it contiguous or channels-last.") -> KernelArgumentError:
        """Return the error for strides that a kernel does not take."""
        return KernelArgumentError(
            f"{name!r} of shape {list(self.shape)} has the strides {list(self.strides)}.", hint=hint
        )

    def _has(self, strides: Sequence[int]) -> bool:
        return all(size == 1 or a == b for size, a, b in zip(self.shape, self.strides, strides, strict=True))


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of a dense array in C order."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def pointer_reader(kind: type, name: str) -> PointerReader:
    """Return, and remember, the function that reads address, dtype and device of arrays of a type.

    The device is -1 for memory of the host. ``name`` is what the error message calls the array.

    Raises:
        KernelArgumentError: values of that type are no arrays on a GPU.
    """
    found = READERS.get(kind)
    if found is None:
        found = READERS[kind] = _make_reader(kind, name)
    return found


def _make_reader(kind: type, name: str) -> PointerReader:
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if issubclass(kind, ArrayView):
        return lambda view: (view.address, view.dtype, view.device)
    if torch is not None and issubclass(kind, torch.Tensor):
        dtypes = [value for value in vars(torch).values() if isinstance(value, torch.dtype)]
        names = {dtype: str(dtype).removeprefix("torch.") for dtype in dtypes}
        return lambda tensor: (tensor.data_ptr(), names[tensor.dtype], tensor.get_device())
    if cupy is not None and issubclass(kind, cupy.ndarray):
        return lambda array: (array.data.ptr, _name(array.dtype), array.data.device_id)
    if hasattr(kind, "__cuda_array_interface__"):
        return _read_interface
    raise KernelArgumentError(
        f"{name!r} is a {kind.__name__}: no cupy array, torch tensor or object with __cuda_array_interface__."
    )


def _read_interface(value: Any) -> tuple[int, str, int]:
    """Return address, dtype and device of an array of any library; where it names no device, the driver does."""
    interface = value.__cuda_array_interface__
    address = int(interface["data"][0] or 0)
    device = getattr(getattr(value, "device", None), "id", 0 if not address else None)
    if device is None:
        from cupy.cuda import runtime

        device = int(runtime.pointerGetAttributes(address).device)
    return address, _name(np.dtype(interface["typestr"])), device


def _name(dtype: np.dtype[Any]) -> str:
    """Return ``dtype.name``, which NumPy works out anew at every access."""
    found = _numpy_names.get(dtype)
    if found is None:
        found = _numpy_names[dtype] = dtype.name
    return found
