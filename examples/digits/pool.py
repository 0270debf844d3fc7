"""A pool of rendered scenes that training draws its batches from: rendered once, kept on the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from generate import MOST_DIGITS, Size
from rendering import render
from torch import Tensor

__all__ = ["ScenePool"]


@dataclass(frozen=True)
class ScenePool:
    """Scenes as tensors of one device.

    ``images`` is uint8 ``[N, H, W, 3]`` in BGR, ``boxes`` float32 ``[N, M, 4]``, ``labels`` int64 ``[N, M]``, filled up
    with -1 where a scene has fewer than ``M`` digits.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor

    @classmethod
    def render(cls, count: int, *, seed: int, size: Size, workers: int, device: torch.device) -> ScenePool:
        """Render ``count`` training scenes in ``workers`` processes and put them on ``device``."""
        begun = time.perf_counter()
        images = torch.empty((count, *size, 3), dtype=torch.uint8, device=device)
        boxes = torch.zeros((count, MOST_DIGITS, 4), device=device)
        labels = torch.full((count, MOST_DIGITS), -1, device=device)
        first = 0
        for chunk in render(count, seed=seed, size=size, workers=workers):
            where = slice(first, first + len(chunk.labels))
            for whole, part in zip((images, boxes, labels), chunk, strict=True):
                whole[where] = torch.from_numpy(part).to(device)
            first = where.stop
        print(f"rendered {count} scenes in {time.perf_counter() - begun:.0f} s with {workers} processes", flush=True)
        return cls(images, boxes, labels)

    def batches(self, batch: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield ``steps`` batches of images, boxes and labels; every scene is seen once before any is seen again."""
        device = self.images.device
        shuffle = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(steps):
            while len(order) < batch:
                order = torch.cat([order, torch.randperm(len(self.images), generator=shuffle)])
            chosen, order = order[:batch].to(device), order[batch:]
            yield self.images[chosen], self.boxes[chosen], self.labels[chosen]
