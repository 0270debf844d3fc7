"""Edge aggregation of ExtremeNet: an extreme point on a straight edge is as strong as the edge."""

from __future__ import annotations

import numpy as np

__all__ = ["aggregate"]


def aggregate(heat: np.ndarray, axis: int, weight: float) -> np.ndarray:
    """Return float32 maps [C, H, W] with ``weight`` times the sums before and behind each cell along ``axis`` added.

    The sum before a cell is that of the neighbours on that side as long as the values do not fall towards the cell, and
    so is the one behind it; the cell itself is in neither. The result may exceed 1.
    """
    lines = np.moveaxis(heat, axis, 0)
    factor = np.float32(weight)
    total = factor * _before(lines) + factor * _before(lines[::-1])[::-1] + lines
    return np.ascontiguousarray(np.moveaxis(total, 0, axis))


def _before(lines: np.ndarray) -> np.ndarray:
    """Return the sum of what rises towards each line from those before it."""
    sums = lines.copy()
    for index in range(1, len(lines)):
        sums[index] += sums[index - 1] * (lines[index] >= lines[index - 1])
    return np.asarray(sums - lines)
