"""The affine map between an image and the network's input, with the rounding of the original."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = ["affine", "transform"]


def affine(centre: Sequence[float], scale: float, size: tuple[int, int], *, inverse: bool = False) -> np.ndarray:
    """Return the 2 x 3 float64 matrix that maps a square of the image to the middle of an output.

    ``centre`` (x, y) and side ``scale`` of the square are in pixels of the image; ``size`` is
    (width, height) of the output, whose full width the square takes. With ``inverse`` the matrix
    maps output to image. The matrix is solved from three float32 points (the centre, the point half
    a side above it, and the corner that makes the right angle), as CenterNet does; there is no
    half-pixel shift.
    """
    width, height = size
    source = _points(centre[0], centre[1], scale)
    target = _points(width * 0.5, height * 0.5, width)
    matrix = cv2.getAffineTransform(target, source) if inverse else cv2.getAffineTransform(source, target)
    return np.asarray(matrix)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return float32 points [..., 2] mapped by a 2 x 3 matrix: float64 arithmetic, float32 result."""
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    mapped = [row[0] * x + row[1] * y + row[2] for row in matrix]
    return np.stack(mapped, axis=-1).astype(np.float32)


def _points(x: float, y: float, side: float) -> np.ndarray:
    """Return the three points of a square, float32; centres and halves of whole pixels are exact in it."""
    half = side / 2
    return np.array([(x, y), (x, y - half), (x - half, y - half)], np.float32)
