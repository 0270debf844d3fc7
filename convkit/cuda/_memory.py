"""Memory that the device side of an adapter or operator needs for itself: tables, scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from convkit.cuda._declaration import Variant

__all__ = ["ACTIVE", "DeviceStandIn", "allocate", "clear", "stand_in", "upload"]


class DeviceStandIn(Protocol):
    """What takes the place of the GPU for `load`, `upload`, `allocate` and `clear`."""

    def load(self, variant: Variant) -> Any: ...
    def upload(self, values: np.ndarray) -> Any: ...
    def allocate(self, shape: Sequence[int], dtype: str) -> Any: ...
    def clear(self, array: Any, stream: int, count: int | None) -> bool: ...


ACTIVE: list[DeviceStandIn] = []
"""The stand-ins in use, the current one last."""


@contextmanager
def stand_in(device: DeviceStandIn) -> Iterator[None]:
    """Let ``device`` take the place of the GPU in this process until the context ends."""
    ACTIVE.append(device)
    try:
        yield
    finally:
        ACTIVE.remove(device)


def upload(values: np.ndarray) -> Any:
    """Return a copy of a host array on the current device; it is complete when the function returns."""
    if ACTIVE:
        return ACTIVE[-1].upload(values)
    import cupy

    with cupy.cuda.Stream(non_blocking=True) as stream:
        array = cupy.asarray(values)
        stream.synchronize()
    return array


def allocate(shape: Sequence[int], dtype: str) -> Any:
    """Return an uninitialised array on the current device."""
    if ACTIVE:
        return ACTIVE[-1].allocate(shape, dtype)
    import cupy

    return cupy.empty(tuple(shape), dtype)


def clear(array: Any, stream: int, count: int | None = None) -> bool:
    """Set an array of `allocate`, or its first ``count`` values, to 0 on the stream.

    Return False where that is only captured in a CUDA graph, and so has not happened.
    """
    if ACTIVE:
        return ACTIVE[-1].clear(array, stream, count)
    from cupy.cuda import runtime

    size = array.nbytes if count is None else count * array.itemsize
    runtime.memsetAsync(array.data.ptr, 0, size, stream)
    return not runtime.streamIsCapturing(stream)
