"""Staging memory: arrays of a batch one behind the other, for one copy to or from the device."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from convkit.processing import ArraySpec

__all__ = ["ALIGNMENT", "Packer", "Span", "layout", "padded", "rounded"]

ALIGNMENT = 16
"""Every array in staging memory starts at a multiple of so many bytes."""
_PARALLEL_BYTES = 4 << 20
_PIECE_BYTES = 1 << 19
_MOST_THREADS = 8


@dataclass(frozen=True)
class Span:
    """Where an array lies in a piece of memory: offset in bytes, shape with the batch axis, dtype."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    def view(self, memory: np.ndarray) -> np.ndarray:
        """Return the array in host memory (uint8)."""
        dtype = np.dtype(self.dtype)
        return memory[self.offset : self.offset + prod(self.shape) * dtype.itemsize].view(dtype).reshape(self.shape)


def layout(specs: Sequence[ArraySpec], batch: int, start: int = 0) -> tuple[dict[str, Span], int]:
    """Return where the arrays of a batch lie from ``start`` on, one behind the other, and where they end."""
    spans = {}
    for spec in specs:
        spans[spec.name] = Span(start, (batch, *spec.shape), spec.dtype)
        start += rounded(batch * prod(spec.shape) * np.dtype(spec.dtype).itemsize, ALIGNMENT)
    return spans, start


class Packer:
    """Copies arrays into staging memory, with several threads where they are large."""

    def __init__(self) -> None:
        self._count = min(_MOST_THREADS, os.cpu_count() or 1)
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def is_quick(self, size: int) -> bool:
        """Tell whether a batch of so many bytes is copied at once, because more than its copy would hide little."""
        return size < _PARALLEL_BYTES

    def copy(self, memory: np.ndarray, offsets: Sequence[int], arrays: Sequence[np.ndarray]) -> Callable[[], None]:
        """Begin to copy each array to its offset in bytes; return what waits for the end, and may be called twice.

        What is quick is copied here.
        """
        quick = self.is_quick(sum(array.nbytes for array in arrays))
        cuts = 1 if quick else -(-self._count // len(arrays))
        pieces = [
            piece
            for offset, array in zip(offsets, arrays, strict=True)
            for piece in _pieces(memory[offset:], array, cuts)
        ]
        if quick:
            _copy(pieces)
            return lambda: None
        pool, parts = self._pool(), min(len(pieces), self._count)
        pending = [pool.submit(_copy, pieces[start::parts]) for start in range(parts)]
        return lambda: _wait(pending)

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            if self._workers:
                self._workers.shutdown()
                self._workers = None

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(self._count, "convkit-pack")
            return self._workers


_Piece = tuple[np.ndarray, np.ndarray]


def _pieces(memory: np.ndarray, array: np.ndarray, count: int) -> list[_Piece]:
    """Return target and source of up to ``count`` parts of an array, some rows each.

    They are as few as there are threads for: at the end of each a thread waits for Python's lock.
    """
    target = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
    count = min(count, len(array), array.nbytes // _PIECE_BYTES) if array.ndim else 1
    if count <= 1:
        return [(target, array)]
    step = -(-len(array) // count)
    return [(target[row : row + step], array[row : row + step]) for row in range(0, len(array), step)]


def _copy(pieces: Sequence[_Piece]) -> None:
    for target, source in pieces:
        np.copyto(target, source)


def _wait(pending: Sequence[Future[None]]) -> None:
    for each in pending:
        each.result()


def rounded(size: int, step: int) -> int:
    """Return a size rounded up to a multiple of ``step``."""
    return -(-size // step) * step


def padded(values: Sequence[Any], count: int) -> list[Any]:
    """Return the values, the last one repeated up to ``count``."""
    return [*values, *[values[-1]] * (count - len(values))]
