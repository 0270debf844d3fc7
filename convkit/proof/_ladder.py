"""The ladder of an artifact, from the checks of its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convkit.backends import FAILED, NOT_APPLICABLE, PASSED, PENDING, Ladder, Rung
from convkit.proof._verdict import Check, Verdict

__all__ = [
    "GRAPH_CHECKS",
    "METRIC",
    "PIPELINE",
    "artifact_ladder",
    "decoded_rung",
    "failures_json",
    "pipeline_rung",
    "place",
    "rung_of",
]

PIPELINE = "pipeline"
RESULTS = ("decoded", "decode")
GRAPH_CHECKS = ("shape", "values", "batch", "layers")
METRIC = "metric"
NO_DECODE = "The model has no decode; its outputs are what is compared."


def artifact_ladder(
    verdict: Verdict, machine: Mapping[str, str], exported: Rung | None = None, typed: Rung | None = None
) -> Ladder:
    """Return the ladder of an ONNX artifact on the backend and device of a verdict.

    ``machine`` says what the proof depends on besides the artifact: versions, the GPU. ``exported`` is the rung of the
    conversion where the verdict is that of a later proof, or of the graph after it was typed, and ``typed`` that of its
    typed graph; without them this verdict is that of a conversion to float32.
    """
    facts = {"backend": verdict.backend, "device": verdict.device, **machine}
    graph = [check for check in verdict.checks if check.kind in GRAPH_CHECKS]
    shapes = len({check.case for check in graph if check.kind == "values"})
    runs = f"{verdict.backend} runs the ONNX graph itself"
    rungs = [
        exported or _exported(verdict, graph, shapes),
        typed or Rung("typed", NOT_APPLICABLE, "The graph is float32."),
        decoded_rung(verdict),
        *(Rung(name, NOT_APPLICABLE, f"{runs}; nothing is built.") for name in ("accepted", "understood", "built")),
    ]
    ran = [check for check in verdict.checks if check.kind not in (PIPELINE, *RESULTS)]
    rungs.append(rung_of("ran", ran, f"On {place(facts)}: {_count(ran)}, in {shapes} shapes", facts))
    rungs.append(pipeline_rung(verdict, facts))
    return Ladder(tuple(rungs))


def _exported(verdict: Verdict, graph: Sequence[Check], shapes: int) -> Rung:
    stage = next((stage for stage in verdict.ledger if not stage.passed), None)
    if stage:
        text = f"The error enters at stage {stage.name!r}, output {stage.output!r}."
        return Rung("exported", FAILED, text, {"checks": failures_json(graph)})
    return rung_of("exported", graph, f"Graph against {verdict.reference}: {_count(graph)}, in {shapes} shapes")


def decoded_rung(verdict: Verdict) -> Rung:
    """Return the rung of the decoded results, from the checks of a verdict of a model with or without decode."""
    checks = [check for check in verdict.checks if check.kind in RESULTS]
    if checks:
        matched = [check.note for check in checks if check.kind == "decoded" and check.note]
        return rung_of("decoded", checks, f"{_count(checks)}; {matched[-1]}" if matched else _count(checks))
    if verdict.passed:
        return Rung("decoded", NOT_APPLICABLE, NO_DECODE)
    return Rung("decoded", PENDING, "The outputs failed; nothing was decoded.")


def pipeline_rung(verdict: Verdict, facts: Mapping[str, Any]) -> Rung:
    """Return the rung from raw inputs to results; ``facts`` name the machine."""
    checks = [check for check in verdict.checks if check.kind == PIPELINE]
    if checks:
        text = f"On {place(facts)}: stored inputs to results as `run` does it, {_count(checks)}"
        return rung_of("pipeline", checks, text, facts)
    if verdict.passed:
        return Rung("pipeline", NOT_APPLICABLE, "`run` refuses the sizes of all stored inputs.", facts)
    return Rung("pipeline", PENDING, "Something failed before; no pipeline was run.", facts)


def rung_of(name: str, checks: Sequence[Check], summary: str, facts: Mapping[str, Any] | None = None) -> Rung:
    """Return a rung that passed if there are checks and all of them passed; a failed one lists those that did not."""
    failures = failures_json(checks)
    status = FAILED if failures or not checks else PASSED
    return Rung(name, status, f"{summary}.", {**(facts or {}), "checks": failures})


def failures_json(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return output, kind, case and note of each check that did not pass."""
    return [
        {"output": check.output, "kind": check.kind, "case": check.case, "note": check.note}
        for check in checks
        if not check.passed
    ]


def place(facts: Mapping[str, Any]) -> str:
    """Return where something ran: ``NVIDIA H100, torch 2.13`` or ``cpu, onnxruntime 1.32``."""
    engine = " ".join(str(facts[key]) for key in ("backend", "version") if facts.get(key))
    return ", ".join(filter(None, (str(facts.get("gpu") or facts.get("device", "")), engine)))


def _count(checks: Sequence[Check]) -> str:
    failed = sum(not check.passed for check in checks)
    return f"{failed} of {len(checks)} checks failed" if failed else f"{len(checks)} checks passed"
