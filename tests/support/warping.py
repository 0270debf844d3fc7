"""Images for the warp kernel, packed as it reads them, and its launches on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from convkit.cuda import Variant
from convkit.processing.image_warp import ImageWarp
from convkit.testing.cuda_host import run_on_host

RAMP = np.tile(np.arange(256, dtype=np.float32), (3, 1))
GREY = (114, 114, 114)


def noise(rows: int, columns: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, channels), dtype=np.uint8)


def pack(
    images: Sequence[np.ndarray],
    matrices: Sequence[Any],
    gap: int = 0,
    settings: ImageWarp | None = None,
    rectangles: Sequence[Sequence[int]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the table of images and the shortest buffer that contains them, ``gap`` bytes apart."""
    settings = settings or ImageWarp(RAMP[:1], channels=images[0].shape[2], border=(0,) * images[0].shape[2])
    offsets, buffer = [], bytearray()
    for image in images:
        buffer += bytes(gap)
        offsets.append(len(buffer))
        buffer += image.tobytes()
    buffer += bytes(-len(buffer) % 4)
    sources = [
        settings.image(*image.shape[:2], matrix, rectangle=rectangles[index] if rectangles else None)
        for index, (image, matrix) in enumerate(zip(images, matrices, strict=True))
    ]
    return settings.table(sources, offsets, len(buffer)), np.frombuffer(bytes(buffer), np.uint8).copy()


def on_host(
    settings: ImageWarp, variant: Variant, table: np.ndarray, pixels: np.ndarray, size: tuple[int, int], **how: Any
) -> np.ndarray:
    """Return the output as float32 [B, slots, H, W]; it held NaN before the run."""
    (height, width), constants = size, dict(variant.constants)
    slots, dtype, batch = int(constants["SLOTS"]), str(constants["T"]), len(table)
    shape = (batch, height, width, slots) if constants["LAST"] else (batch, slots, height, width)
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    output = np.full(shape, 0x7FFF if dtype == "bfloat16" else np.nan, stored)
    values = [table.view(np.uint8), pixels, settings.values(dtype), output, settings.border, height, width]
    run_on_host(variant, variant.launch_config(batch=batch, height=height, width=width), values, **how)
    if dtype == "bfloat16":
        output = (output.astype(np.uint32) << 16).view(np.float32)
    return np.moveaxis(output, -1, 1).astype(np.float32) if constants["LAST"] else output.astype(np.float32)


def placed(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the image as the YOLO family places it."""
    scale = min(height / rows, width / columns)
    wide, high = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def to_image(rows: int, columns: int, rectangle: tuple[int, int, int, int]) -> list[list[float]]:
    """Return the matrix from pixels of the tensor to the image whose centres of pixels cv2.resize maps."""
    left, top, right, bottom = rectangle
    across, down = columns / (right - left), rows / (bottom - top)
    return [[across, 0, (0.5 - left) * across - 0.5], [0, down, (0.5 - top) * down - 0.5]]


def by_opencv(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return resize and border as the YOLO family calls them."""
    left, top, right, bottom = placed(*image.shape[:2], height, width)
    small = cv2.resize(image, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
    sides = (top, height - bottom, left, width - right)
    return cv2.copyMakeBorder(small, *sides, cv2.BORDER_CONSTANT, value=GREY)
