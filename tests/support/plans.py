"""What two builds of one network have in common."""

from __future__ import annotations

import numpy as np

__all__ = ["same_plan"]

MOST_DIFFERING = 1000
"""Bytes by which two plans may differ, whatever their places; 180 were seen."""


def same_plan(first: bytes | None, second: bytes | None) -> bool:
    """Return whether two plans contain the same bytes, but for some of TensorRT's own.

    TensorRT-RTX orders tables, and where height and width vary whole sections, by addresses, which differ between
    processes: so it is counted how often each byte value occurs, not where.
    """
    if not first or not second or len(first) != len(second):
        return False
    counts = [np.bincount(np.frombuffer(plan, np.uint8), minlength=256) for plan in (first, second)]
    return bool(np.abs(counts[0] - counts[1]).sum() <= 2 * MOST_DIFFERING)
