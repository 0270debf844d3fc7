"""Arrays as PyTorch can share them."""

from __future__ import annotations

import numpy as np

__all__ = ["dense"]


def dense(array: np.ndarray) -> np.ndarray:
    """Return an array of the same shape without gaps or negative strides: itself where it has none, else a copy.

    NumPy calls an axis of length one contiguous even if its stride is negative; PyTorch takes no such array.
    """
    shared = array.flags.c_contiguous and all(stride >= 0 for stride in array.strides)
    return array if shared else np.array(array, order="C")
