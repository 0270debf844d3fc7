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
    source = _corner_points(np.array(centre, np.float32), np.float32(scale))
    target = _corner_points(np.array([width * 0.5, height * 0.5], np.float32), np.float32(width))
    matrix = cv2.getAffineTransform(target, source) if inverse else cv2.getAffineTransform(source, target)
    return np.asarray(matrix)


def transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return float32 points [..., 2] mapped by a 2 x 3 matrix: float64 arithmetic, float32 result."""
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    mapped = [row[0] * x + row[1] * y + row[2] for row in matrix]
    return np.stack(mapped, axis=-1).astype(np.float32)


def _corner_points(middle: np.ndarray, side: np.float32) -> np.ndarray:
    above = middle + np.array([0, side * np.float32(-0.5)], np.float32)
    across = middle - above
    return np.stack([middle, above, above + np.array([-across[1], across[0]], np.float32)])
