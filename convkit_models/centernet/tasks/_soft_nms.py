"""Gaussian soft suppression, as CenterNet's compiled extension computes it."""

from __future__ import annotations

import numpy as np

__all__ = ["soft_nms"]

SIGMA = 0.5
LOWEST = 0.001


def soft_nms(rows: np.ndarray) -> int:
    """Lower the scores of float32 rows of x1, y1, x2, y2, score … in place; return how many of them remain.

    The best row comes first, and each other one that overlaps it gets its score times exp(-IoU^2 / 0.5), and so on.
    Sides and overlaps count a pixel more than they are. A row that falls below 0.001 is replaced by the last one. What
    then lies behind the number that is returned are copies of rows that moved, with scores of before: the original
    returns these as well. Columns behind the score are exchanged there, not copied: a copy has those of the row that
    was replaced.
    """
    count = len(rows)
    for own in range(len(rows)):
        if own >= count:
            break
        best = own + int(rows[own:count, 4].argmax())
        rows[[own, best]] = rows[[best, own]]
        weights = _weights(rows[own], rows[own + 1 : count])
        lowered = (rows[own + 1 : count, 4] * weights).astype(np.float32)
        touched = weights >= 0
        dead = touched & (lowered < LOWEST)
        if not dead.any():
            rows[own + 1 : count, 4] = np.where(touched, lowered, rows[own + 1 : count, 4])
            continue
        place, end = 0, count - own - 1  # relative to the next row
        source = list(range(end))
        while place < end:
            at = source[place]
            if dead[at]:
                rows[own + 1 + place, 4] = lowered[at]  # which stays where the row is the last one
                end -= 1
                source[place] = source[end]
                gone, last = own + 1 + place, own + 1 + end
                rows[gone, :5] = rows[last, :5]
                rows[[gone, last], 5:] = rows[[last, gone], 5:]
            else:
                if touched[at]:
                    rows[own + 1 + place, 4] = lowered[at]
                place += 1
        count = own + 1 + end
    return count


def _weights(best: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the factor of each row's score in float32, -1 where it does not overlap the best."""
    one = np.float32(1)
    width = np.minimum(best[2], rows[:, 2]) - np.maximum(best[0], rows[:, 0]) + one
    height = np.minimum(best[3], rows[:, 3]) - np.maximum(best[1], rows[:, 1]) + one
    overlap = (width > 0) & (height > 0)
    own = (best[2] - best[0] + one) * (best[3] - best[1] + one)
    areas = (rows[:, 2] - rows[:, 0] + one) * (rows[:, 3] - rows[:, 1] + one)
    both = width * height
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        iou = (both / (own + areas - both)).astype(np.float64)
        weights = np.exp(-(iou * iou) / SIGMA).astype(np.float32)
    return np.asarray(np.where(overlap, weights, np.float32(-1)))
