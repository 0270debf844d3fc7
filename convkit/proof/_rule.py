"""The float64 rule: an engine may err a small multiple of what float32 in PyTorch errs itself.

    err(engine, float64) <= factor * err(PyTorch float32, float64) + atol + 4 ulp of the output's scale

The rule needs no constant tuned to a network: how badly conditioned it is shows in PyTorch's own
float32 error, measured on the same inputs. The 4 ulp cover outputs that PyTorch happens to get
right to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from convkit.model import TensorSpec, Tolerance
from convkit.proof._errors import TensorError
from convkit.proof._matching import SCORE_SLACK, MatchError
from convkit.proof._verdict import Check

__all__ = ["DECODED", "ILL_CONDITIONED", "judge", "limits_of", "yardsticks_of"]

ULP = 2.0**-23
FLOOR = 4 * ULP
BOX_FLOOR = 0.01
"""Pixels by which a coordinate may always differ."""
DECODED = "decoded results"
ILL_CONDITIONED = 1e-2
"""Relative float32 error of PyTorch from which on agreement says little."""

Errors = Sequence[TensorError | MatchError]


def yardsticks_of(runs: Iterable[Mapping[str, Errors]]) -> dict[str, dict[str, float]]:
    """Return the largest of each figure an output had in PyTorch's float32 runs."""
    table: dict[str, dict[str, float]] = {}
    for run in runs:
        for name, errors in run.items():
            for key, value in _figures(errors).items():
                known = table.setdefault(name, {})
                known[key] = max(known.get(key, 0.0), value)
            scale = max((error.scale for error in errors if isinstance(error, TensorError)), default=0.0)
            table[name]["scale"] = max(table[name].get("scale", 0.0), scale)
    return table


def limits_of(yardstick: Mapping[str, float], tolerance: Tolerance) -> dict[str, float]:
    """Return the limit of each figure of an output."""
    limits = {}
    for key, value in yardstick.items():
        if key == "max_abs":
            limits[key] = tolerance.factor * value + tolerance.atol + FLOOR * yardstick.get("scale", 0.0)
        elif key == "rel_l2":
            scale = yardstick.get("scale", 0.0)
            limits[key] = tolerance.factor * value + FLOOR + (tolerance.atol / scale if scale else 0.0)
        elif key == "max_box":
            limits[key] = tolerance.factor * value + BOX_FLOOR + tolerance.atol
        elif key == "max_score":
            limits[key] = tolerance.factor * value + SCORE_SLACK
        elif key == "unexplained":
            limits[key] = tolerance.factor * value
    return limits


def judge(
    errors: Errors, output: TensorSpec | None, case: str, yardstick: Mapping[str, float], *, kind: str = ""
) -> Check:
    """Return the check of one output in one case; ``output`` None means decoded results."""
    tolerance = output.tolerance if output else Tolerance()
    figures, limits = _figures(errors), limits_of(yardstick, tolerance)
    passed = all(math.isfinite(limits.get(key, 0.0)) and figures[key] <= limits.get(key, 0.0) for key in figures)
    return Check(
        kind=kind or (output.compare if output else "decoded"),
        case=case,
        output=output.name if output else DECODED,
        passed=passed,
        figures=figures,
        limits={key: limits.get(key, 0.0) for key in figures},
        note=_note(errors, passed),
    )


def _figures(errors: Errors) -> dict[str, float]:
    figures: dict[str, float] = {}
    for error in errors:
        pairs: dict[str, Any] = (
            {"max_abs": error.max_abs, "rel_l2": error.rel_l2}
            if isinstance(error, TensorError)
            else {
                "unexplained": float(error.unexplained),
                "max_box": error.max_box,
                "max_score": error.max_score,
            }
        )
        for key, value in pairs.items():
            figures[key] = max(figures.get(key, 0.0), math.inf if math.isnan(value) else value)
    return figures


def _note(errors: Errors, passed: bool) -> str:
    matches = [error for error in errors if isinstance(error, MatchError)]
    if matches:
        expected, matched = sum(m.expected for m in matches), sum(m.matched for m in matches)
        ties = sum(m.ties for m in matches)
        text = f"{matched} of {expected} matched" + (f", {ties} ties" if ties else "")
        return "; ".join([text, *(match.note for match in matches if match.note)])
    for error in errors:
        if isinstance(error, TensorError) and not passed:
            return error.note or f"worst at {list(error.worst)}: {error.actual:.6g} where {error.expected:.6g} is right"
    return ""
