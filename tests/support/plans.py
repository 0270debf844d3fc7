"""What two builds of one network have in common."""

from __future__ import annotations

import numpy as np

__all__ = ["same_plan"]

MOST_DIFFERING = 1000
"""Bytes: TensorRT-RTX orders a few of a plan's tables by addresses, which differ between processes."""


def same_plan(first: bytes | None, second: bytes | None) -> bool:
    """Return whether two plans are equal but for the order of some of TensorRT's own tables."""
    if not first or not second or len(first) != len(second):
        return False
    differing = np.count_nonzero(np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8))
    return bool(differing <= MOST_DIFFERING)
