"""The float64 rule: an engine may err a small multiple of what PyTorch errs itself in the same precision.

    err(engine, float64) <= factor * err(PyTorch, float64) + atol + 4 ulp of the output's scale

The baselines say in ``ulp`` which precision they were measured in, float32 where they do not.

The rule needs no constant tuned to a network: how badly conditioned it is shows in PyTorch's own error, the baseline,
measured on the same inputs. The 4 ulp (2 in coarser precisions) cover outputs that PyTorch happens to get right to the
last bit.

Results have a ceiling besides: where PyTorch itself loses a tenth of the boxes or moves them by 40 pixels, three times
that is no limit. The kind of result says what nobody would call the same; beyond it, a check is not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from convkit.model import TensorSpec, Tolerance
from convkit.proof._metrics import TensorError
from convkit.proof._verdict import Check
from convkit.results import Difference

__all__ = ["DECODED", "ILL_CONDITIONED", "ILL_CONDITIONED_16", "baselines_of", "judge", "limits_of"]

ULP = 2.0**-23
FLOOR_ULPS, FLOOR_ULPS_16 = 4, 2
"""Units in the last place that are always allowed in float32, and in coarser precisions."""
DECODED = "decoded results"
ILL_CONDITIONED = 1e-2
"""Relative float32 error of PyTorch from which on agreement says little."""
ILL_CONDITIONED_16 = 0.1
"""The same of 16-bit precisions, which round a thousandth to a hundredth of each number away."""

MOST_UNEXPLAINED = 0.01
"""The share of results without a partner beyond which two lists are not the same, where the result does not say."""
CEILING_16 = 10.0
"""How many times as much a ceiling is in 16 bits, where rounding moves results that nobody lost."""

Errors = Sequence[TensorError | Difference]


def baselines_of(runs: Iterable[Mapping[str, Errors]], ulp: float = ULP) -> dict[str, dict[str, float]]:
    """Return the largest of each figure that an output had in PyTorch's own runs, in a precision of this ``ulp``."""
    table: dict[str, dict[str, float]] = {}
    for run in runs:
        for name, errors in run.items():
            known = table.setdefault(name, {})
            for key, value in _figures(errors).items():
                known[key] = max(known.get(key, 0.0), value)
            scale = max((error.scale for error in errors if isinstance(error, TensorError)), default=0.0)
            known["scale"] = max(known.get("scale", 0.0), scale)
            if ulp != ULP:
                known["ulp"] = ulp
    return table


def limits_of(
    baseline: Mapping[str, float], tolerance: Tolerance, floors: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the limit of each figure of an output; ``floors`` are added for figures of results."""
    limits, scale, floor = {}, baseline.get("scale", 0.0), _floor(baseline)
    for key, value in baseline.items():
        if key == "max_abs":
            limits[key] = tolerance.factor * value + tolerance.atol + floor * scale
        elif key == "rel_l2":
            limits[key] = tolerance.factor * value + floor + (tolerance.atol / scale if scale else 0.0)
        elif key not in ("scale", "ulp"):
            limits[key] = tolerance.factor * value + (floors or {}).get(key, 0.0)
    return limits


def _floor(baseline: Mapping[str, float]) -> float:
    return FLOOR_ULPS_16 * baseline["ulp"] if "ulp" in baseline else FLOOR_ULPS * ULP


def judge(
    errors: Errors, output: TensorSpec | None, case: str, baseline: Mapping[str, float], *, kind: str = ""
) -> Check:
    """Return the check of one output in one case; ``output`` None means decoded results."""
    floors = {key: value for error in errors if isinstance(error, Difference) for key, value in error.floors.items()}
    figures, allowed = _figures(errors), limits_of(baseline, output.tolerance if output else Tolerance(), floors)
    ceilings = _ceilings(errors, baseline)
    limits = {key: min(allowed.get(key, 0.0), ceilings.get(key, math.inf)) for key in figures}
    passed = all(math.isfinite(limits[key]) and figures[key] <= limits[key] for key in figures)
    comparable = any(figures[key] > limits[key] and figures[key] > allowed.get(key, 0.0) for key in figures)
    note = _note(errors, passed)
    if not passed and not comparable:
        beyond = ", ".join(f"{key} {allowed[key]:.3g}" for key in figures if limits[key] < allowed.get(key, 0.0))
        note = f"{note}; PyTorch's own deviation would allow {beyond}, which is beyond what a result may deviate"
    return Check(
        kind=kind or ("values" if output else "decoded"),
        case=case,
        output=output.name if output else DECODED,
        passed=passed,
        figures=figures,
        limits=limits,
        note=note,
        comparable=passed or comparable,
    )


def _ceilings(errors: Errors, baseline: Mapping[str, float]) -> dict[str, float]:
    """Return the largest limit that each figure of results may have."""
    differences = [error for error in errors if isinstance(error, Difference)]
    if not differences:
        return {}
    table = {"unexplained": MOST_UNEXPLAINED * max(difference.expected for difference in differences)}
    for difference in differences:
        table.update(difference.ceilings)
    return {key: value * (CEILING_16 if "ulp" in baseline else 1.0) for key, value in table.items()}


def _figures(errors: Errors) -> dict[str, float]:
    figures: dict[str, float] = {}
    for error in errors:
        pairs: Mapping[str, float] = (
            {"max_abs": error.max_abs, "rel_l2": error.rel_l2}
            if isinstance(error, TensorError)
            else {"unexplained": float(error.unexplained), **error.figures}
        )
        for key, value in pairs.items():
            figures[key] = max(figures.get(key, 0.0), math.inf if math.isnan(value) else value)
    return figures


def _note(errors: Errors, passed: bool) -> str:
    differences = [error for error in errors if isinstance(error, Difference)]
    if differences:
        expected, matched = sum(d.expected for d in differences), sum(d.matched for d in differences)
        ties = sum(d.ties for d in differences)
        text = f"{matched} of {expected} matched" + (f", {ties} ties" if ties else "")
        return "; ".join([text, *(difference.note for difference in differences if difference.note)])
    for error in errors:
        if isinstance(error, TensorError) and not passed:
            return error.note or f"worst at {list(error.worst)}: {error.actual:.6g} where {error.expected:.6g} is right"
    return ""
