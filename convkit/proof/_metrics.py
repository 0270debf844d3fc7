"""How far one tensor lies from another: the figures that a verdict is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["TensorError", "broken_values", "measure"]


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
    """Return the error of ``value`` against ``reference``, computed in float64."""
    if reference.shape != value.shape:
        return _broken(f"shape {value.shape} where {reference.shape} is expected")
    if reference.size == 0:
        return TensorError(0.0, 0.0, 0.0)
    expected, actual = (array.astype(np.float64, copy=False) for array in (reference, value))
    with np.errstate(invalid="ignore"):
        difference = np.abs(actual - expected)
    if not np.isfinite(difference.sum()):
        for array, owner in ((actual, ""), (expected, " of the reference")):
            if np.isnan(array).any():
                return _broken(f"{int(np.isnan(array).sum())} values{owner} are NaN")
        difference[np.isinf(expected) & (expected == actual)] = 0.0
        expected_finite = np.where(np.isfinite(expected), expected, 0.0)
    else:
        expected_finite = expected
    worst = np.unravel_index(int(np.argmax(difference)), difference.shape)
    norm, scale = float(np.linalg.norm(expected_finite)), float(np.abs(expected_finite).max())
    error = float(np.linalg.norm(difference))
    return TensorError(
        max_abs=float(difference[worst]),
        rel_l2=error / norm if norm else (0.0 if error == 0 else float("inf")),
        scale=scale,
        worst=tuple(int(index) for index in worst),
        expected=float(expected[worst]),
        actual=float(actual[worst]),
    )


def broken_values(reference: np.ndarray, value: np.ndarray) -> int:
    """Return how many values are NaN, in either array, or infinite where the reference has no infinity at all."""
    if not np.issubdtype(value.dtype, np.inexact):
        return 0
    broken = int(np.isnan(value).sum()) or int(np.isnan(reference).sum())
    return broken + (int(np.isinf(value).sum()) if np.isfinite(reference).all() else 0)


def _broken(note: str) -> TensorError:
    return TensorError(float("inf"), float("inf"), 0.0, note=note)
