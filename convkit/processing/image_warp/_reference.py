"""What the warp kernel computes, in NumPy: the reference that its tests and other hosts compare with."""

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
    """Return the tensor (float32 [B, C, height, width]) of the images that ``table`` describes in ``pixels`` (uint8).

    It is what `ImageWarp.launch` writes before the conversion to the output's dtype.
    """
    channels = settings.channels
    tensors = []
    for record in table:
        rows, columns, pitch = (int(record[name]) for name in ("height", "width", "pitch"))
        start = int(record["offset"])
        image = np.lib.stride_tricks.as_strided(pixels[start:], (rows, columns, channels), (pitch, channels, 1))
        values = sample(image, record["matrix"], height, width, settings.border_pixel)
        if settings.rounding != "none":
            values = np.rint(values) if settings.rounding == "even" else np.floor(values + _F(0.5))
        if settings.swap:
            values = values[..., [2, 1, 0, *range(3, channels)]]
        planes = np.moveaxis(values, -1, 0)[: len(settings.levels)]
        tensors.append([_normalise(settings, plane, index) for index, plane in enumerate(planes)])
    return np.array(tensors, np.float32)


def sample(image: np.ndarray, matrix: np.ndarray, height: int, width: int, border: Sequence[int]) -> np.ndarray:
    """Return float32 [height, width, C]: bilinear samples of an image (uint8 [H, W, C]) at ``matrix @ (x, y, 1)``.

    Each of the four neighbours that lies outside the image is ``border``. The arithmetic is float32 with fused
    multiply-adds in the order of OpenCV 5, so rounding to nearest even gives the result of its ``warpAffine``.
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
        return np.where(inside[..., None], found, np.asarray(border)).astype(_F)

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
