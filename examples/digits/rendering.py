"""Scenes by the chunk, rendered by several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from generate import MOST_DIGITS, Size, scenes
from numpy.typing import NDArray

__all__ = ["Chunk", "render"]

_CHUNK = 128


class Chunk(NamedTuple):
    """Some scenes as arrays.

    ``images`` is uint8 ``[n, H, W, 3]`` in BGR, ``boxes`` float32 ``[n, MOST_DIGITS, 4]``, ``labels`` int64
    ``[n, MOST_DIGITS]``, filled up with -1 where a scene has fewer digits.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def render(count: int, *, seed: int, size: Size, workers: int) -> Iterator[Chunk]:
    """Yield the first ``count`` training scenes of a seed in order; 0 ``workers`` renders them in this process."""
    jobs = [(first, min(_CHUNK, count - first), seed, size) for first in range(0, count, _CHUNK)]
    if workers == 0:
        yield from map(_render, jobs)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes that are about to start inherit it
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield from executor.map(_render, jobs)


def _render(job: tuple[int, int, int, Size]) -> Chunk:
    first, count, seed, size = job
    cv2.setNumThreads(1)
    chunk = Chunk(
        np.empty((count, *size, 3), np.uint8),
        np.zeros((count, MOST_DIGITS, 4), np.float32),
        np.full((count, MOST_DIGITS), -1, np.int64),
    )
    for number, item in enumerate(scenes("train", count, seed, (size,), first)):
        chunk.images[number] = item.image
        chunk.boxes[number, : len(item.labels)] = item.boxes
        chunk.labels[number, : len(item.labels)] = item.labels
    return chunk
