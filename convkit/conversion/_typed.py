"""The rung *typed* of an engine: a typed graph against float64, under what that precision costs PyTorch itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convkit.artifact import Artifact
from convkit.backends import FAILED, PASSED, PENDING, Rung, open_session
from convkit.conversion._yardstick import measure_yardstick
from convkit.errors import EnvironmentProblem
from convkit.graph import RewriteRecord
from convkit.model import PRECISIONS, ModelSpec, Precision
from convkit.processing import find_decode
from convkit.progress import Progress
from convkit.proof import (
    Check,
    GoldenSamples,
    Verdict,
    decoded_rung,
    failures_json,
    prove,
    shape_cases,
)

__all__ = ["HOW", "prove_typed", "remedy", "worst", "yardstick_text"]

HOW = "operators compute in float32 and round their results once"
"""What the backend torch does with 16-bit tensors on the CPU."""


def prove_typed(
    artifact: Artifact,
    spec: ModelSpec,
    edges: ModelSpec,
    golden: GoldenSamples,
    graph: Path,
    precision: Precision,
    records: Sequence[RewriteRecord],
    yardstick: Path,
    progress: Progress,
) -> list[Rung]:
    """Return the rungs *typed* and *decoded* of a typed graph, run by PyTorch on the CPU on the golden samples.

    Its error against float64 may be a small multiple of what PyTorch errs with the graph ``yardstick``, the artifact's
    in float32, when every tensor of that is 16-bit, for int8 rounded to its steps besides; a typed artifact has that in
    its proof. ``edges`` is the specification with the types of the typed graph's inputs and outputs; rounding to these
    counts as the graph's. ``records`` are those of the rewrites that made the graph. The rungs are pending where
    PyTorch lacks an operator.
    """
    fired = {record.name: record.fired for record in records if record.fired}
    kept = [miss for record in records if record.name == f"graph.to-{precision.name}" for miss in record.near_misses]
    facts: dict[str, Any] = {"precision": precision.name, "how": HOW, "rewrites": fired, "float32": kept}
    try:
        verdict = _verdict(artifact, spec, edges, golden, graph, precision, yardstick, progress)
    except EnvironmentProblem as error:
        text = f"{error.message} Nothing was compared."
        return [Rung("typed", PENDING, text, {**facts, "hint": error.hint}), Rung("decoded", PENDING, text)]
    facts["baselines"] = verdict.to_json()["baselines"]
    facts["checks"] = failures_json(verdict.checks)
    left = "with weights left out of it" if precision.rest else "kept in float32"
    typed = f"{fired.get(f'graph.to-{precision.name}', 0)} nodes in {precision.dtype}, {len(kept)} {left}"
    if not verdict.passed:
        facts["hint"] = remedy(verdict, precision)
    status = PASSED if verdict.passed else FAILED
    summary = f"{typed}; {worst(verdict)}{verdict.headline()}; {HOW}."
    return [Rung("typed", status, summary, facts), decoded_rung(verdict)]


def _verdict(
    artifact: Artifact,
    spec: ModelSpec,
    edges: ModelSpec,
    golden: GoldenSamples,
    graph: Path,
    precision: Precision,
    yardstick: Path,
    progress: Progress,
) -> Verdict:
    cases, decode, fed = shape_cases(spec.dims), find_decode(spec.decode), golden.fitted(edges)
    recorded = Verdict.from_json(artifact.verdict).baselines
    baselines = (
        measure_yardstick(spec, yardstick, golden.reference(), golden.samples, cases, decode, precision, progress)
        if artifact.manifest["graph"]["precision"] == "fp32"
        else recorded
    )
    session = open_session("torch", graph)
    try:
        return prove(
            edges,
            reference=fed.reference(),
            engine=session.run,
            samples=fed.samples,
            cases=cases,
            baselines=baselines,
            decode=decode,
            verdict=Verdict("torch", "cpu", "stored float64 results", baselines=baselines),
            progress=progress,
        )
    finally:
        session.close()


def worst(verdict: Verdict) -> str:
    """Return the largest relative error of an output beside its limit, with a semicolon behind it."""
    checks = [check for check in verdict.checks if check.kind == "values" and check.limits.get("rel_l2")]
    if not checks:
        return ""
    worst = max(checks, key=lambda check: check.figures["rel_l2"] / check.limits["rel_l2"])
    figure, limit = worst.figures["rel_l2"], worst.limits["rel_l2"]
    return f"{worst.output} {figure:.2g} off float64 (relative) where {limit:.2g} is allowed; "


def yardstick_text(precision: Precision) -> str:
    """Return what PyTorch runs in a precision, in words."""
    if precision.rest:
        return f"tensors rounded to {precision.dtype} steps and {PRECISIONS[precision.rest].dtype} around them"
    return f"every tensor in {precision.dtype}"


def remedy(verdict: Verdict, precision: Precision) -> str:
    """Return what a user can do about a typed graph that failed."""
    if precision.rest:
        return (
            "Calibrate with more inputs like those of later use (--calibrate), keep layers in float32 (--keep-fp32), or"
            f" use --precision {precision.rest}."
        )
    if precision.name == "fp16" and any(map(_overflows, verdict.checks)):
        return "The network leaves the range of float16, which ends at 65504: use --precision bf16, or fp32."
    return "Use --precision fp32, or report the model: the graph was typed wrongly."


def _overflows(check: Check) -> bool:
    return any(value == float("inf") for value in (*check.figures.values(), *check.limits.values()))
