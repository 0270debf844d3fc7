"""Staging memory: arrays of a batch one behind the other, for one copy to or from the device."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import cv2
import numpy as np

from convkit.processing import ArraySpec

__all__ = ["ALIGNMENT", "Packer", "Span", "layout", "padded", "rounded"]

ALIGNMENT = 16
"""Every array in staging memory starts at a multiple of so many bytes."""
_LARGE_BYTES = 4 << 20
_PART_BYTES = 1 << 19
_MOST_PART_BYTES = 1 << 30  # OpenCV counts columns in 32 bits
_MOST_THREADS = 8
_GAP = np.zeros(ALIGNMENT, np.uint8)


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
    """Copies arrays into staging memory, with several threads where they are large.

    A thread makes one call that copies all of its part, because between two calls it would wait for Python's lock. To
    wake threads of Python takes longer than to copy an image; those of PyTorch, where it is in use, are quicker, and
    slower with many arrays.
    """

    def __init__(self) -> None:
        self._count = min(_MOST_THREADS, os.cpu_count() or 1)
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._latest: Sequence[tuple[threading.Event, Future[None]]] = ()

    def is_quick(self, size: int) -> bool:
        """Tell whether a batch of so many bytes is copied at once, because more than its copy would hide little."""
        return size < _LARGE_BYTES

    def copy(self, memory: np.ndarray, start: int, arrays: Sequence[np.ndarray]) -> Callable[[], None]:
        """Begin to copy contiguous arrays one behind the other, each to a multiple of `ALIGNMENT` from ``start`` on.

        What is returned waits for the end, and may be called twice. What is quick is copied here. A large batch may be
        given before the one before it is done: each thread goes on with it at once.
        """
        pieces = _chained(arrays)
        if not (size := sum(piece.size for piece in pieces)):
            return lambda: None
        target = memory[start : start + size]
        if self.is_quick(size):
            writeable = all(piece.flags.writeable for piece in pieces)  # or PyTorch makes no tensor of it
            (_copy_threaded if size > _PART_BYTES and writeable and has_torch() else _copy)(target, pieces)
            return lambda: None
        count = max(1, min(self._count, size // _PART_BYTES), -(-size // _MOST_PART_BYTES))
        step = rounded(-(-size // count), ALIGNMENT)
        earlier, pending = self._latest, []
        for at in range(0, size, step):
            begun = threading.Event()
            part = target[at : at + step], _cut(pieces, at, at + step), begun
            pending.append((begun, self._pool().submit(_copy_part, *part)))
        self._latest = pending
        if all(copied.done() for _, copied in earlier):
            self._wait_for_threads()
        return partial(self._end, pending)

    def _end(self, pending: Sequence[tuple[threading.Event, Future[None]]]) -> None:
        for _, copied in pending:
            copied.result()
        self._wait_for_threads()

    def _wait_for_threads(self) -> None:
        """Wait until what was given last has begun: a thread needs Python's lock for that, and the caller keeps it."""
        for begun, _ in self._latest:
            begun.wait()

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


def has_torch() -> bool:
    """Return whether this process uses PyTorch."""
    return "torch" in sys.modules


def _chained(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the bytes of the arrays, with as many between them as make each start at a multiple of `ALIGNMENT`."""
    pieces = []
    for array in arrays:
        pieces.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        if gap := -array.nbytes % ALIGNMENT:
            pieces.append(_GAP[:gap])
    return pieces


def _cut(pieces: Sequence[np.ndarray], start: int, end: int) -> list[np.ndarray]:
    """Return what lies from ``start`` to ``end`` of pieces one behind the other."""
    return list(_inside(pieces, start, end))


def _inside(pieces: Sequence[np.ndarray], start: int, end: int) -> Iterator[np.ndarray]:
    at = 0
    for piece in pieces:
        if at < end and at + piece.size > start:
            yield piece[max(start - at, 0) : end - at]
        at += piece.size


def _copy(target: np.ndarray, pieces: Sequence[np.ndarray]) -> None:
    """Fill ``target`` with the pieces, in one call without Python's lock."""
    cv2.hconcat([piece[np.newaxis] for piece in pieces], target[np.newaxis])


def _copy_threaded(target: np.ndarray, pieces: Sequence[np.ndarray]) -> None:
    """Do the same by the threads of PyTorch."""
    import torch

    torch.cat([torch.from_numpy(piece) for piece in pieces], out=torch.from_numpy(target))


def _copy_part(target: np.ndarray, pieces: Sequence[np.ndarray], begun: threading.Event) -> None:
    """Do the same in another thread, and tell when it needs Python's lock no more."""
    begun.set()
    _copy(target, pieces)


def rounded(size: int, step: int) -> int:
    """Return a size rounded up to a multiple of ``step``."""
    return -(-size // step) * step


def padded(values: Sequence[Any], count: int) -> list[Any]:
    """Return the values, the last one repeated up to ``count``."""
    return [*values, *[values[-1]] * (count - len(values))]
