"""Whether two tensors are the same as far as their type can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["INTEGERS", "SAME_TYPE", "Verdicts", "judge_tensor", "rounding_of"]

FACTOR = 10.0
"""How many times the replay's own rounding error a reference may differ from exact arithmetic."""
ULPS = 16.0
"""Units in the last place by which a value may always differ."""
SCALE_ULPS = 8.0
"""Units in the last place of the largest value of a tensor by which any of its values may differ."""
TIES = 0.01
"""The share of quantised integers that may be off by one: what lies between two of them rounds either way."""
FLOOR = 2.0**-24
"""By which any value may differ: ONNX Runtime's sigmoid is 0 where the true one is smaller."""
INTEGERS = ("INT8", "UINT8", "INT4")
"""The types of quantised integers."""
_EPSILON = {"FLOAT": 2.0**-23, "HALF": 2.0**-10, "BF16": 2.0**-7}
SAME_TYPE = {
    "float32": "FLOAT", "float64": "FLOAT", "float16": "HALF", "bfloat16": "BF16", "int8": "INT8", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "bool": "BOOL", "float8_e4m3fn": "FP8", "int4": "INT4",
    "float4_e2m1fn": "FP4",
}  # fmt: skip
"""NumPy's names of types, and TensorRT's."""


@dataclass(frozen=True)
class Verdicts:
    """What comparing one tensor gave.

    ``error`` and ``limit`` are those of the element that is worst in proportion; ``place`` is its index, with what
    is expected there and what the replay has. ``note`` says it in words where numbers do not.
    """

    passed: bool
    error: float = 0.0
    limit: float = 0.0
    place: tuple[int, ...] = ()
    expected: float | None = None
    actual: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; numbers that are not finite become text."""
        return {
            "passed": self.passed, "error": _finite(self.error), "limit": _finite(self.limit), "place": self.place,
            "expected": _finite(self.expected), "actual": _finite(self.actual), "note": self.note,
        }  # fmt: skip

    def __str__(self) -> str:
        if self.note:
            return self.note
        return f"{self.expected:.7g} expected, {self.actual:.7g} built, at {list(self.place)}"


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def judge_tensor(
    expected: np.ndarray, narrow: np.ndarray, wide: np.ndarray, dtype: str, *, rounding: float = 0.0
) -> Verdicts:
    """Compare what ONNX means with what TensorRT built.

    ``narrow`` is the replay in the network's own types, ``wide`` the replay in float64, ``dtype`` the type in TensorRT.
    Numbers of a floating type may differ from one of the two replays by ``FACTOR`` times the largest difference between
    them, which is what rounding does to this network, and ``ULPS`` units of the last place; other types not at all.
    float64 of the model counts as float32, which is what TensorRT makes of it. ``rounding`` is a difference between the
    two replays that was seen before, with other inputs.
    """
    known = SAME_TYPE.get(expected.dtype.name)
    if known != dtype:
        return Verdicts(False, note=f"{expected.dtype.name} is expected, and {dtype} is built")
    if expected.shape != narrow.shape:
        return Verdicts(False, note=f"the shape {expected.shape} is expected, and {narrow.shape} is built")
    if not expected.size:
        return Verdicts(True)
    whole = dtype not in (*_EPSILON, "FP8", "FP4")
    kind = np.int64 if whole else np.float64
    want, mine = expected.astype(kind), narrow.astype(kind)
    best = mine if wide is narrow else wide.astype(kind)
    if dtype not in _EPSILON:
        wrong = _least_distance(want, mine, best) > 0
        if dtype in INTEGERS and np.mean(wrong) <= TIES and np.abs(want - mine).max() <= 1:
            wrong[:] = False
        return _worst(want, mine, wrong.astype(np.float64), np.zeros(want.shape))
    own = rounding if best is mine else max(rounding, rounding_of(mine, best))
    with np.errstate(all="ignore"):
        magnitude = np.where(np.isfinite(best), np.abs(best), 0.0)
        scale = float(np.max(magnitude))
        limit = FLOOR + FACTOR * own + _EPSILON[dtype] * (ULPS * magnitude + SCALE_ULPS * scale)
        error = _least_distance(want, mine, best)
    return _worst(want, mine, error, limit)


def rounding_of(narrow: np.ndarray, wide: np.ndarray) -> float:
    """Return the largest finite difference between the two replays of one tensor."""
    with np.errstate(all="ignore"):
        spread = np.abs(narrow.astype(np.float64) - wide.astype(np.float64))
    return float(np.max(spread[np.isfinite(spread)], initial=0.0))


def _least_distance(want: np.ndarray, mine: np.ndarray, best: np.ndarray) -> np.ndarray:
    distance = _distance(want, mine)
    return distance if best is mine else np.minimum(distance, _distance(want, best))


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the difference; 0 for equal values that are no numbers, infinite where only one is none."""
    difference = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference)))


def _worst(want: np.ndarray, mine: np.ndarray, error: np.ndarray, limit: np.ndarray) -> Verdicts:
    excess = np.where(error > limit, error, 0.0)
    if excess.any():
        place = np.unravel_index(int(np.argmax(excess)), want.shape)
    else:
        ratio = np.divide(error, limit, out=np.zeros_like(error), where=limit > 0)
        place = np.unravel_index(int(np.argmax(ratio)), want.shape)
    return Verdicts(
        not bool(excess.any()), float(error[place]), float(limit[place]), tuple(int(axis) for axis in place),
        float(want[place]), float(mine[place]),
    )  # fmt: skip
