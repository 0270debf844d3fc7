"""Staging memory: arrays of a batch one behind the other, for one copy to or from the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from convkit.processing import ArraySpec

__all__ = ["ALIGNMENT", "Packer", "Span", "layout", "padded", "rounded"]

ALIGNMENT = 16
"""Every array in staging memory starts at a multiple of so many bytes."""
_PARALLEL_BYTES = 4 << 20


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
        self._workers: ThreadPoolExecutor | None = None

    def copy(self, memory: np.ndarray, offsets: Sequence[int], arrays: Sequence[np.ndarray]) -> None:
        """Copy each array to its offset in bytes."""
        targets = [memory[offset:] for offset in offsets]
        if len(arrays) == 1 or sum(array.nbytes for array in arrays) < _PARALLEL_BYTES:
            for target, array in zip(targets, arrays, strict=True):
                _copy(target, array)
            return
        if self._workers is None:
            self._workers = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "convkit-pack")
        list(self._workers.map(_copy, targets, arrays))

    def close(self) -> None:
        """End the threads."""
        if self._workers:
            self._workers.shutdown()
            self._workers = None


def _copy(target: np.ndarray, array: np.ndarray) -> None:
    np.copyto(target[: array.nbytes].view(array.dtype).reshape(array.shape), array)


def rounded(size: int, step: int) -> int:
    """Return a size rounded up to a multiple of ``step``."""
    return -(-size // step) * step


def padded(values: Sequence[Any], count: int) -> list[Any]:
    """Return the values, the last one repeated up to ``count``."""
    return [*values, *[values[-1]] * (count - len(values))]
