"""Soft suppression step by step, as the facts about CenterNet's extension specify it, on lists of Python floats."""

from __future__ import annotations

import math

__all__ = ["suppress_by_loops"]


def suppress_by_loops(boxes: list[list[float]]) -> int:
    """Suppress rows of x1, y1, x2, y2, score … in place and return how many remain."""
    remaining = len(boxes)
    for i in range(len(boxes)):
        if i >= remaining:
            break
        best = max(range(i, remaining), key=lambda index: (boxes[index][4], -index))
        boxes[i], boxes[best] = boxes[best], boxes[i]
        own, pos = boxes[i], i + 1
        while pos < remaining:
            row = boxes[pos]
            w = min(own[2], row[2]) - max(own[0], row[0]) + 1
            h = min(own[3], row[3]) - max(own[1], row[1]) + 1
            if w > 0 and h > 0:
                area = (own[2] - own[0] + 1) * (own[3] - own[1] + 1) + (row[2] - row[0] + 1) * (row[3] - row[1] + 1)
                row[4] *= math.exp(-((w * h / (area - w * h)) ** 2) / 0.5)
                if row[4] < 0.001:
                    last = boxes[remaining - 1]
                    boxes[pos], boxes[remaining - 1] = [*last[:5], *last[5:]], [*last[:5], *row[5:]]
                    remaining -= 1
                    continue
            pos += 1
    return remaining
