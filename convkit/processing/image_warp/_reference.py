"""The warp kernel in NumPy: the reference for its tests and for other hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from convkit.processing.image_warp._warp import ImageWarp

__all__ = ["sample", "warp"]

_F = np.float32
_Floats = np.ndarray[Any, np.dtype[np.float32]]


def warp(settings: ImageWarp, table: np.ndarray, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the tensor (float32 [B, C, height, width]) of the images that the records in ``table`` describe.

    ``pixels`` is the buffer (uint8). `ImageWarp.launch` writes the same, converted to the output's dtype.
    """
    channels = settings.channels
    tensors = []
    framed = settings.edge == "replicate"
    for framed_record in table:
        record = framed_record["image"] if framed else framed_record
        rows, columns, pitch = (int(record[name]) for name in ("height", "width", "pitch"))
        start = int(record["offset"])
        image = np.lib.stride_tricks.as_strided(pixels[start:], (rows, columns, channels), (pitch, channels, 1))
        values = sample(image, record["matrix"], height, width, None if framed else settings.border_pixel)
        if framed:
            left, top, right, bottom = framed_record["rectangle"]
            x, y = np.arange(width)[None, :, None], np.arange(height)[:, None, None]
            shown = (left <= x) & (x < right) & (top <= y) & (y < bottom)
            values = np.where(shown, values, np.asarray(settings.border_pixel, _F))
        if settings.rounding != "none":
            values = np.rint(values) if settings.rounding == "even" else np.floor(values + _F(0.5))
        if settings.swap:
            values = values[..., [2, 1, 0, *range(3, channels)]]
        planes = np.moveaxis(values, -1, 0)[: len(settings.levels)]
        tensors.append([_normalise(settings, plane, index) for index, plane in enumerate(planes)])
    return np.array(tensors, np.float32)


def sample(image: np.ndarray, matrix: np.ndarray, height: int, width: int, border: Sequence[int] | None) -> np.ndarray:
    """Return float32 [height, width, C]: bilinear samples of an image (uint8 [H, W, C]) at ``matrix @ (x, y, 1)``.

    A neighbour outside the image is ``border``; where that is None, it is the nearest pixel of the image. The
    arithmetic is float32 with fused multiply-adds in the order of OpenCV 5, so rounding to nearest even gives the
    result of its ``warpAffine``.
    """
    rows, columns = image.shape[:2]
    m = np.asarray(matrix, _F)
    x, y = np.arange(width, dtype=_F)[None, :], np.arange(height, dtype=_F)[:, None]
    across, down = (_fused(line[0], x, line[1] * y + line[2]) for line in m)
    left, top = np.floor(across), np.floor(down)

    def tap(dy: int, dx: int) -> _Floats:
        row, column = top + _F(dy), left + _F(dx)
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        found = image[row.clip(0, rows - 1).astype(np.int64), column.clip(0, columns - 1).astype(np.int64)]
        return np.where(inside[..., None], found, found if border is None else np.asarray(border)).astype(_F)

    def mix(first: _Floats, second: _Floats, weight: _Floats) -> _Floats:
        return _fused(weight[..., None], second - first, first)

    return mix(mix(tap(0, 0), tap(0, 1), across - left), mix(tap(1, 0), tap(1, 1), across - left), down - top)


def _normalise(settings: ImageWarp, plane: np.ndarray, channel: int) -> _Floats:
    if settings.rounding != "none":
        return np.take(settings.levels[channel], plane.astype(np.int64))
    a, b, c, d = settings.values("float32")[channel]
    return _fused(plane, a, b) + _fused(plane, c, d)


def _fused(a: Any, b: Any, c: Any) -> _Floats:
    """Return a * b + c, rounded to float32 once (the product is exact in float64, the sum nearly always)."""
    return np.asarray(np.asarray(a, np.float64) * b + np.asarray(c, np.float64), _F)
