"""The proving stages: the written graph in every case, every layer, and from raw inputs to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.artifact import MODEL, Artifact, spec_to_json
from convkit.backends import Ladder
from convkit.conversion._inputs import RawInputs
from convkit.conversion._layers import measure_layers
from convkit.conversion._recall import RecallingSession
from convkit.conversion._reference import STORED_SAMPLES, Measured
from convkit.conversion._stages import Runner
from convkit.errors import ConvkitError, blamed_on
from convkit.evaluation import check_pipeline
from convkit.model import PRECISIONS, ModelSpec
from convkit.plugins import manager
from convkit.processing import decode_batch, fitted_inputs
from convkit.progress import Progress
from convkit.proof import (
    Check,
    Compute,
    GoldenSamples,
    Layers,
    Stage,
    Verdict,
    artifact_ladder,
    layer_feed,
    own_sizes,
    prove,
)
from convkit.results import DRAW_SCORE
from convkit.runtime import predictor_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Proved", "prove_graph", "prove_written"]


@dataclass(frozen=True)
class Proved:
    """The verdict, its ladder, the golden samples, and drawings of results with captions, a row for each input.

    ``machine`` is what the proof depends on besides the artifact, such as the version of the backend; ``metric`` is the
    task metric as the manifest has it, empty where none was measured.
    """

    verdict: Verdict
    ladder: Ladder
    machine: Mapping[str, str]
    golden: GoldenSamples
    drawings: Sequence[Sequence[tuple[str, np.ndarray]]]
    metric: Mapping[str, Any] = field(default_factory=dict)


def prove_written(
    spec: ModelSpec,
    model: onnx.ModelProto,
    measured: Measured,
    inputs: RawInputs,
    golden: GoldenSamples,
    runner: Runner,
    folder: Path,
    baselines: dict[str, dict[str, float]],
    ledger: list[Stage],
    progress: Progress,
    layers: Layers | None = None,
) -> tuple[Verdict, Sequence[Sequence[tuple[str, np.ndarray]]]]:
    """Return the verdict of the graph in ``folder`` under the baselines, pipeline included, and drawings of results.

    ``model`` is that graph, ``layers`` is what its layers have to give.
    """
    compared, reason = _compared_layers(layers, model, golden, runner) if layers else (None, "")
    session = runner.open(folder / MODEL)  # after that of the layers: neither needs the other's memory besides
    if session.device == "cpu":
        session = RecallingSession(session)

    def engine(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return session.run(fitted_inputs(spec.inputs, feed))

    with predictor_of(Artifact(folder, {"model": spec_to_json(spec)}), session) as predictor:
        verdict = prove(
            spec,
            reference=measured.reference,
            engine=engine,
            samples=measured.samples,
            cases=measured.cases,
            baselines=baselines,
            decode=measured.decode,
            verdict=Verdict(
                runner.backend.name,
                runner.device,
                inputs=inputs.origin,
                baselines=baselines,
                ledger=ledger,
            ),
            progress=progress,
        )
        verdict.checks += [compared] if compared else []
        verdict.notes += [reason] if reason else []
        if isinstance(session, RecallingSession):
            session.recall()
        drawings = _drawings(measured, inputs, engine, verdict.backend)
        if verdict.passed:
            if isinstance(session, RecallingSession):
                golden = _whole(spec, measured, inputs, golden)
            verdict.checks += check_pipeline(predictor, golden, verdict.baselines, progress)
    return verdict, drawings


def _whole(spec: ModelSpec, measured: Measured, inputs: RawInputs, golden: GoldenSamples) -> GoldenSamples:
    """Return golden samples of all inputs where they have one size; else ``golden``, which has few in every size."""
    sizes = measured.samples.prepared.keys()
    if len(sizes) > 1 or not sizes >= {own for own in own_sizes(spec, inputs.values) if own is not None}:
        return golden
    return GoldenSamples.record(
        measured.samples, inputs.values, inputs.names, measured.reference, measured.decode
    ).fitted(spec)


def _compared_layers(
    layers: Layers, model: onnx.ModelProto, golden: GoldenSamples, runner: Runner
) -> tuple[Check | None, str]:
    """Return the check of the layers, or why there is none."""
    try:
        return layers.check(model, golden.samples, runner.backend.name, runner.device), ""
    except ConvkitError as error:
        return None, f"the layers were not compared: {error.message}"


def prove_graph(
    spec: ModelSpec,
    model: onnx.ModelProto,
    measured: Measured,
    inputs: RawInputs,
    runner: Runner,
    folder: Path,
    progress: Progress,
) -> Proved:
    """Prove the written graph in every case and from raw inputs to results, draw what it finds, store samples."""
    golden = GoldenSamples.record(
        measured.stored,
        list(inputs.values[:STORED_SAMPLES]),
        list(inputs.names[:STORED_SAMPLES]),
        measured.reference,
        measured.decode,
    )
    golden.save(folder)
    baselines = {name: dict(table) for name, table in measured.baselines.items()}
    progress("measuring every layer")
    feed = layer_feed(spec, golden.samples, measured.opt.item_sizes)
    layers, reason = measure_layers(model, feed, PRECISIONS["fp32"])
    if layers:
        layers.save(folder)
    verdict, drawings = prove_written(
        spec, model, measured, inputs, golden, runner, folder, baselines, measured.ledger, progress, layers
    )
    verdict.notes += [reason] if reason else []
    machine = runner.backend.machine(runner.device)
    return Proved(verdict, artifact_ladder(verdict, machine), machine, golden, drawings)


def _drawings(
    measured: Measured, inputs: RawInputs, engine: Compute, backend: str
) -> list[list[tuple[str, np.ndarray]]]:
    """Return for each stored input what PyTorch found and what the engine found, as far as it can be drawn."""
    if measured.decode is None:
        return []
    feed, metas = measured.stored.feed(measured.opt), measured.stored.metas(measured.opt)
    results = {
        name: decode_batch(measured.decode, compute(feed), metas)
        for name, compute in (("PyTorch float64", measured.reference), (backend, engine))
    }
    rows = []
    for name, raw, *found in zip(inputs.names[:STORED_SAMPLES], inputs.values, *results.values(), strict=False):
        row = []
        for who, result, other in zip(results, found, reversed(found), strict=True):
            with blamed_on(f"draw() of {type(result).__name__}", manager().origin(measured.decode)):
                shown = result.above(DRAW_SCORE)
                drawn = shown.draw_beside(raw, other)
            if drawn is not None:
                row.append((f"{name}, {who}: {shown.summary()}", drawn))
        rows.append(row)
    return rows
