"""How far one tensor lies from another: the figures that a verdict is made of."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["TensorError", "broken_values", "measure"]

BLOCK = 1 << 13
"""Numbers at once: they stay in a core's cache, and are too few for a BLAS to share among threads."""


@dataclass(frozen=True)
class TensorError:
    """The error of ``value`` against ``reference``, both of the same shape.

    ``max_abs`` is the largest absolute difference, ``rel_l2`` the Euclidean norm of the difference
    over that of the reference, ``scale`` the largest magnitude in the reference. ``worst`` is the
    index of the largest difference, with both values. A NaN, an infinity that only one side has,
    or another shape makes the errors infinite.
    """

    max_abs: float
    rel_l2: float
    scale: float
    worst: tuple[int, ...] = ()
    expected: float = 0.0
    actual: float = 0.0
    note: str = ""

    def __bool__(self) -> bool:
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return {**asdict(self), "worst": list(self.worst)}


def measure(reference: np.ndarray, value: np.ndarray) -> TensorError:
    """Return the error of ``value`` against ``reference``, computed in float64, block by block."""
    if reference.shape != value.shape:
        return _broken(f"shape {value.shape} where {reference.shape} is expected")
    if reference.size == 0:
        return TensorError(0.0, 0.0, 0.0)
    flat = reference.reshape(-1), value.reshape(-1)
    worst, largest, scale, norm, error = 0, -1.0, 0.0, 0.0, 0.0
    for start in range(0, reference.size, BLOCK):
        expected, actual = (array[start : start + BLOCK].astype(np.float64, copy=False) for array in flat)
        with np.errstate(invalid="ignore"):
            difference = np.abs(actual - expected)
        if not np.isfinite(difference.sum()):
            for array, owner in zip((value, reference), ("", " of the reference"), strict=True):
                if np.isnan(array).any():
                    return _broken(f"{int(np.isnan(array).sum())} values{owner} are NaN")
            difference[np.isinf(expected) & (expected == actual)] = 0.0
            expected = np.where(np.isfinite(expected), expected, 0.0)
        place = int(np.argmax(difference))
        if difference[place] > largest:
            worst, largest = start + place, float(difference[place])
        scale = max(scale, float(np.abs(expected).max()))
        norm += float(expected @ expected)
        error += float(difference @ difference)
    return TensorError(
        max_abs=largest,
        rel_l2=math.sqrt(error / norm) if norm else (0.0 if error == 0 else float("inf")),
        scale=scale,
        worst=tuple(int(index) for index in np.unravel_index(worst, reference.shape)),
        expected=float(flat[0][worst]),
        actual=float(flat[1][worst]),
    )


def broken_values(reference: np.ndarray, value: np.ndarray) -> int:
    """Return how many values are NaN, in either array, or infinite where the reference has no infinity at all."""
    if not np.issubdtype(value.dtype, np.inexact):
        return 0
    broken = int(np.isnan(value).sum()) or int(np.isnan(reference).sum())
    return broken + (int(np.isinf(value).sum()) if np.isfinite(reference).all() else 0)


def _broken(note: str) -> TensorError:
    return TensorError(float("inf"), float("inf"), 0.0, note=note)
