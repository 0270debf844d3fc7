"""The upper rungs of an engine: it ran on this GPU, and so did everything from raw inputs to results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convkit.artifact import Artifact, StoredEngine, spec_from_manifest
from convkit.backends import FAILED, PASSED, Ladder, Rung, backend_named
from convkit.processing import decode_batch, find_decode
from convkit.progress import Progress, silent
from convkit.proof import DECODED, Check, GoldenSamples, Verdict, judge, measure, validate
from convkit.results import SLACK
from convkit.runtime import Predictor, load

__all__ = ["EngineProof", "prove_engine"]

ROUNDS = 4
"""Runs of each batch: the third of a slot is captured in a CUDA graph, and later ones replay it."""


@dataclass(frozen=True)
class EngineProof:
    """What is proved of an engine: its ladder, and the verdict of this machine.

    Without a ``verdict`` this machine cannot run it: ``problem`` says why, and ``command`` completes the proof where it
    can be run.
    """

    ladder: Ladder
    verdict: Verdict | None
    problem: str
    command: str


def prove_engine(
    path: Path | str,
    backend: str,
    *,
    device: str | None = None,
    save_results: Path | None = None,
    progress: Progress = silent,
) -> EngineProof:
    """Run the engine of an artifact on a GPU, compare it, and write the rungs ``ran`` and ``pipeline`` to its verdict.

    The engine is judged like any other (see `validate`), in every corner of its shapes; then the golden samples go
    through the device pipeline as `load` opens it, often enough that its CUDA graphs are replayed.

    Raises:
        ArtifactError, IntegrityError: there is no such artifact or engine, or not the one that was built.
        EnvironmentProblem: there is no such backend.
    """
    artifact = Artifact.open(path)
    progress("checking hashes")
    artifact.verify()
    stored = artifact.engine(backend)
    stored.verify(artifact)
    runs = backend_named(backend)
    device = device or runs.default_device
    command = f"convkit validate {shlex.quote(str(artifact.path))} --backend {backend} --device {device}"
    problem = runs.problem(device)
    if problem:
        return EngineProof(Ladder.from_json(stored.ladder), None, problem, command)
    verdict = validate(path, backend=backend, device=device, save_results=save_results, progress=progress)
    facts = {"plan": stored.description["files"][stored.plan.name]["sha256"], **runs.machine(device)}
    rungs = [_rung("ran", verdict.checks, facts, f"{verdict.headline()}, {verdict.reference}")]
    if verdict.passed:
        progress("running the device pipeline")
        checks = list(_pipeline_checks(artifact, backend, device, verdict.baselines))
        verdict.checks += checks
        rungs.append(_rung("pipeline", checks, facts, f"{ROUNDS} rounds of the golden samples, raw input to result"))
    ladder = _with(stored, rungs)
    stored.record(ladder.to_json())
    return EngineProof(ladder, verdict, "", command)


def _rung(name: str, checks: Sequence[Check], facts: Mapping[str, str], what: str) -> Rung:
    failures = [
        {"output": check.output, "kind": check.kind, "case": check.case, "note": check.note}
        for check in checks
        if not check.passed
    ]
    state = FAILED if failures or not checks else PASSED
    where = ", ".join(facts[key] for key in ("gpu", "version") if key in facts)
    return Rung(name, state, f"On {where}: {what}.", {**facts, "checks": failures})


def _with(stored: StoredEngine, rungs: Sequence[Rung]) -> Ladder:
    """Return the ladder of an engine with other upper rungs; those above a failed one are pending again."""
    known = {rung.name: rung for rung in rungs}
    lower = [rung for rung in Ladder.from_json(stored.ladder).rungs if rung.name not in ("ran", "pipeline")]
    missing = Rung("pipeline", "pending", "The engine itself failed; nothing else was run.")
    return Ladder((*lower, known["ran"], known.get("pipeline", missing)))


def _pipeline_checks(
    artifact: Artifact, backend: str, device: str, baselines: Mapping[str, Mapping[str, float]]
) -> Iterator[Check]:
    """Yield a check for each round and batch size: golden samples through the predictor against the float64 outputs."""
    spec = spec_from_manifest(artifact.manifest)
    golden = GoldenSamples.load(artifact.path, spec)
    with load(artifact.path, backend=backend, device=device, unproved=True, verify=False) as predictor:
        expected, metas = _expected(predictor, golden)
        for batch in sorted({predictor.batch_min, min(predictor.batch_max, max(len(golden.raws), 1))}):
            for number in range(1, ROUNDS + 1):
                case = f"pipeline, batch {batch}, round {number}"
                if predictor.decodes:
                    yield _decoded(predictor, golden, expected, metas, baselines, batch, case)
                else:
                    yield from _outputs(predictor, golden, expected, baselines, batch, case)


def _expected(predictor: Predictor, golden: GoldenSamples) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return float64 outputs and metas of the golden samples in the sizes that the predictor makes of them."""
    wanted = {name: tensor.shape for name, tensor in predictor.prepare(golden.raws[0]).tensors.items()}
    for sizes, items in golden.samples.prepared.items():
        if {name: tensor.shape for name, tensor in items[0].tensors.items()} == wanted:
            return golden.outputs[sizes], [item.meta for item in items]
    raise AssertionError("the golden samples contain the default sizes")


def _decoded(
    predictor: Predictor,
    golden: GoldenSamples,
    expected: Sequence[Any],
    metas: Sequence[Any],
    baselines: Mapping[str, Mapping[str, float]],
    batch: int,
    case: str,
) -> Check:
    decode = find_decode(predictor.spec.decode)
    assert decode is not None
    slack = max(SLACK, 3 * baselines.get(DECODED, {}).get("max_score", 0.0))
    found = predictor.stream(golden.raws, batch=batch)
    differences = [
        decode_batch(decode, outputs, [meta])[0].compare(result, slack=slack)
        for outputs, meta, result in zip(expected, metas, found, strict=True)
    ]
    return judge(differences, None, case, baselines.get(DECODED, {}), kind="pipeline")


def _outputs(
    predictor: Predictor,
    golden: GoldenSamples,
    expected: Sequence[Mapping[str, np.ndarray]],
    baselines: Mapping[str, Mapping[str, float]],
    batch: int,
    case: str,
) -> Iterator[Check]:
    found = predictor.outputs(golden.raws, batch=batch)
    for output in predictor.spec.outputs:
        if output.compare == "values":
            pairs = zip(expected, found, strict=True)
            errors = [measure(a[output.name].reshape(b[output.name].shape), b[output.name]) for a, b in pairs]
            yield judge(errors, output, case, baselines[output.name], kind="pipeline")
