"""The stage *type*: a proved float32 graph gets the types of a precision, is audited and proved again."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.artifact import MODEL
from convkit.backends import (
    FAILED,
    NOT_APPLICABLE,
    Backend,
    Engine,
    Rung,
    backend_named,
    find_graph_backend,
    open_engine,
)
from convkit.bisection import Limits, find_kept, results_judge
from convkit.conversion._audit import audit
from convkit.conversion._brought import BroughtGraph
from convkit.conversion._calibration import CalibrationSet
from convkit.conversion._changes import Changes, Wish, measure_changes
from convkit.conversion._edges import changed_edges, narrow_edges
from convkit.conversion._export import check_graph
from convkit.conversion._inputs import RawInputs
from convkit.conversion._layers import measure_layers
from convkit.conversion._metric import Metric
from convkit.conversion._proving import Proved, prove_written
from convkit.conversion._reference import Measured
from convkit.conversion._settings import AUTO
from convkit.conversion._stages import Rewritten, Runner
from convkit.conversion._typed import remedy, worst, yardstick_text
from convkit.conversion._yardstick import measure_yardstick
from convkit.errors import ConversionError
from convkit.graph import REWRITES_KEY, Rewrite, RewriteRecord, apply_rewrite, in_phases, save_onnx
from convkit.graph.precision import NARROW, NarrowEdges, Range, Search, To16Bit, read_keep_file, write_keep_file
from convkit.inspection import GraphPrecision, graph_precision, graph_stats
from convkit.model import ModelSpec, Precision, Target
from convkit.plugins import manager
from convkit.processing import collate
from convkit.progress import Progress
from convkit.proof import GRAPH_CHECKS, LAYERS, METRIC, Layers, Verdict, artifact_ladder, layer_feed, rung_of
from convkit.reporting import excerpts_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Typed", "bring_graph", "judge_of", "prove_typed_graph", "read_kept", "type_graph"]

KEPT = "proof/kept.txt"

Task = Callable[["onnx.ModelProto", "onnx.ModelProto"], tuple[bool, str]]
"""Whether a typed graph does its task as the float32 graph before it does, and the figures in words."""


@dataclass(frozen=True)
class Typed:
    """A typed graph: what the rewrites did, which types came of it, and what the precision costs PyTorch.

    ``ranges`` are those on the samples that kept a node in float32, by tensor; ``search`` is how the nodes to keep were
    found, where they were searched for; ``calibration`` is what int8 was calibrated with;
    ``brought`` is the name of the file where the graph is the user's own; ``graphs`` show one place of each rewrite,
    ``layers`` is what the layers have to give; None where nothing is known of them. ``spec`` is the model's, with the
    types of the graph's inputs and outputs.
    """

    model: onnx.ModelProto
    rewrites: Sequence[tuple[str, RewriteRecord]]
    precision: Precision
    types: GraphPrecision
    ranges: Mapping[str, Range]
    baselines: dict[str, dict[str, float]]
    search: Search | None = None
    calibration: CalibrationSet | None = None
    brought: str = ""
    graphs: Sequence[Mapping[str, Any]] = ()
    layers: Layers | None = None
    spec: ModelSpec = field(kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        table = {name: [found.low, found.high] for name, found in self.ranges.items()}
        found = {"search": self.search.to_json()} if self.search else {}
        if self.calibration:
            found["calibration"] = self.calibration.to_json()
        asked = AUTO if self.search else self.precision.name
        return {**self.types.to_json(asked), "ranges": table, **found}


def judge_of(backend: str, device: str, precision: str) -> Backend:
    """Return the backend that proves a graph of this precision: the one that was asked for, or else PyTorch.

    Raises:
        SettingError, EnvironmentProblem: it cannot run here.
    """
    unfit = backend_named(backend).unfit(precision, device)
    return find_graph_backend("torch" if unfit else backend, device)


def read_kept(path: Path | None, model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the nodes to keep in float32 that a file lists; none without a file.

    Raises:
        SettingError: it cannot be read, or lists a node that the graph lacks.
    """
    return read_keep_file(path, model) if path else frozenset()


def type_graph(
    adapter: str,
    spec: ModelSpec,
    target: Target,
    rewritten: Rewritten,
    measured: Measured,
    runner: Runner,
    wish: Wish,
    folder: Path,
    progress: Progress,
    task: Task | None = None,
) -> Typed:
    """Type the float32 graph for the precision of ``target``, audit it, and write it in place of the other.

    The ranges of values come from the samples, or the inputs for calibration, run by ``runner`` in float32. With
    ``wish.auto``, those nodes stay float32 that have to for decoded results to keep to `Limits`, and for ``task`` to
    accept the graph beside the float32 one: the smallest set that a search finds, which is written to
    ``proof/kept.txt``.

    Raises:
        ConversionError: the graph is 16-bit already, or the greater part of its arithmetic stays float32.
        EnvironmentProblem: PyTorch lacks an operator of the graph.
    """
    precision, model = wish.precision, rewritten.model
    _check_float32(model)
    feeds = list(_single_feeds(spec, measured))
    changes = measure_changes(model, wish, feeds, lambda graph: _opened(runner, graph, folder), progress)
    searched = _searched(spec, model, measured, changes, folder, progress, task) if wish.auto else None
    found = manager().gather("convkit_graph_rewrites", of=Rewrite, adapter=adapter, target=target)
    records: list[tuple[str, RewriteRecord]] = []
    graphs: list[Mapping[str, Any]] = []
    for plugin, change in in_phases(found):
        if change.phase == "precision":
            progress(f"rewriting: {change.name}")
            rewrite = changes.of(change, searched.kept if searched else ())
            before = model
            model, record = apply_rewrite(model, rewrite, spec.expect.get(change.name))
            graphs += excerpts_of(before, model, record)
            records.append((plugin, record))
    edges = spec
    if wish.edges != "fp32":
        edges = narrow_edges(spec, wish.edges)
        model, record = apply_rewrite(model, NarrowEdges(changed_edges(spec, edges), wish.edges))
        records.append((records[-1][0], record))
    check_graph(model, "the rewrites of phase precision")
    types = graph_precision(model, graph_stats(model, {dim.name: dim.opt for dim in spec.dims}))
    audit(types, precision, [miss for _, record in records for miss in record.near_misses], auto=wish.auto)
    baselines, layers = _measured(spec, rewritten.model, measured, precision, changes, folder, progress)
    _stamp(model, records)
    _write_graph(model, folder)
    decisive = _decisive(types, changes.ranges)
    return Typed(
        model, records, precision, types, decisive, baselines, searched, changes.calibration, graphs=graphs,
        layers=layers, spec=edges,
    )  # fmt: skip


def bring_graph(
    spec: ModelSpec,
    brought: BroughtGraph,
    rewritten: Rewritten,
    measured: Measured,
    runner: Runner,
    wish: Wish,
    folder: Path,
    progress: Progress,
) -> Typed:
    """Write a graph of the user's in place of the float32 one, of which PyTorch runs the yardstick of its precision.

    For int8 that has the places and the scales that convkit would choose.

    Raises:
        ConversionError: nothing of the float32 graph can become int8.
        EnvironmentProblem: PyTorch lacks an operator of the float32 graph.
    """
    baselines, changes = {name: dict(table) for name, table in measured.baselines.items()}, None
    if brought.precision.name != "fp32":
        if wish.calibration:
            changes = measure_changes(rewritten.model, wish, (), lambda graph: _opened(runner, graph, folder), progress)
        baselines, _ = _measured(spec, rewritten.model, measured, wish.precision, changes, folder, progress)
    types = graph_precision(brought.model, graph_stats(brought.model, {dim.name: dim.opt for dim in spec.dims}))
    _write_graph(brought.model, folder)
    calibration = changes.calibration if changes else None
    return Typed(brought.model, [], brought.precision, types, {}, baselines, None, calibration, brought.name, spec=spec)


def _measured(
    spec: ModelSpec,
    model: onnx.ModelProto,
    measured: Measured,
    precision: Precision,
    changes: Changes | None,
    folder: Path,
    progress: Progress,
) -> tuple[dict[str, dict[str, float]], Layers | None]:
    """Return what a precision costs PyTorch on the float32 graph, which is in ``folder``, too, and in its layers."""
    try:
        yardstick = changes.write_yardstick(model, folder / MODEL, folder) if changes else folder / MODEL
        baselines = measure_yardstick(
            spec, yardstick, measured.reference, measured.samples, measured.cases, measured.decode, precision,
            progress, bounded=True,
        )  # fmt: skip
        progress("measuring every layer")
        feed = layer_feed(spec, measured.stored, measured.opt.item_sizes)
        return baselines, measure_layers(model, feed, precision, yardstick)[0]
    finally:
        Changes.forget_yardstick(folder)


def _write_graph(model: onnx.ModelProto, folder: Path) -> None:
    for part in folder.glob(f"{MODEL}*"):
        part.unlink()
    save_onnx(model, folder / MODEL)


def prove_typed_graph(
    spec: ModelSpec,
    measured: Measured,
    inputs: RawInputs,
    before: Proved,
    typed: Typed,
    runner: Runner,
    folder: Path,
    progress: Progress,
    metric: Callable[[], Metric] | None = None,
) -> Proved:
    """Prove the typed graph against float64 in every case and from raw inputs to results, by the precision's own rule.

    ``before`` is the proof of the float32 graph, whose rung *exported* stays, unless the graph is the user's own.
    ``metric`` measures the task metric, where everything else passed.
    """
    (folder / LAYERS).unlink(missing_ok=True)  # those of the float32 graph
    golden, layers = before.golden, typed.layers
    if typed.spec != spec:
        golden = golden.fitted(typed.spec)
        golden.save(folder)
        layers = layers.of_feed(layer_feed(typed.spec, golden.samples, measured.opt.item_sizes)) if layers else None
    if layers:
        layers.save(folder)
    verdict, drawings = prove_written(
        typed.spec, typed.model, measured, inputs, golden, runner, folder, typed.baselines, before.verdict.ledger,
        progress, layers,
    )  # fmt: skip
    found = metric() if metric and verdict.passed else None
    if found:
        verdict.checks.append(found.check())
    machine = runner.backend.machine(runner.device)
    exported, rung = before.ladder["exported"], None
    if typed.brought:
        exported = _brought_rung(typed, verdict)
    if typed.precision.name != "fp32":
        rung = _rung(typed, verdict)
    ladder = artifact_ladder(verdict, machine, exported, rung)
    return Proved(verdict, ladder, machine, golden, drawings, found.to_json() if found else {})


def _brought_rung(typed: Typed, verdict: Verdict) -> Rung:
    """Return the rung *exported* of a graph that nobody here exported: it is proved itself where it is float32."""
    if typed.precision.name != "fp32":
        return Rung("exported", NOT_APPLICABLE, f"The graph is {typed.brought}, which the user brought.")
    checks = [check for check in verdict.checks if check.kind in GRAPH_CHECKS]
    return rung_of("exported", checks, f"{typed.brought}, which the user brought, against {verdict.reference}")


def _rung(typed: Typed, verdict: Verdict) -> Rung:
    checks = [check for check in verdict.checks if check.kind in (*GRAPH_CHECKS, METRIC)]
    counts = ", ".join(f"{count} nodes in {name}" for name, count in typed.types.nodes.items())
    summary = f"{counts}; {worst(verdict)}three times what PyTorch errs with {yardstick_text(typed.precision)}"
    for check in checks:
        if check.kind == METRIC:
            summary += f"; {check.note} on {check.case}, {check.limits['drop']:g} less is allowed"
    facts: dict[str, Any] = {
        "precision": typed.precision.name,
        "rewrites": {record.name: record.fired for _, record in typed.rewrites if record.fired},
        "kept": dict(typed.types.kept),
    }
    rung = rung_of("typed", checks, summary, facts)
    return (
        replace(rung, details={**rung.details, "hint": remedy(verdict, typed.precision)})
        if rung.status == FAILED
        else rung
    )


def _check_float32(model: onnx.ModelProto) -> None:
    """Refuse a graph that has 16-bit weights already."""
    narrow = next((tensor.name for tensor in model.graph.initializer if tensor.data_type in NARROW), None)
    if narrow is not None:
        raise ConversionError(
            f"The graph is 16-bit already: its constant {narrow!r} is.",
            hint="Leave --precision out, or give the model in float32 to the exporter.",
        )


def _single_feeds(spec: ModelSpec, measured: Measured) -> Iterable[Mapping[str, np.ndarray]]:
    """Return the samples of the optimal sizes, each alone or in the smallest batch there is."""
    for item in measured.samples.prepared[measured.opt.item_sizes]:
        yield collate(spec.inputs, [item] * spec.batch.min)


def _opened(runner: Runner, model: onnx.ModelProto, folder: Path) -> Any:
    """Return what runs a model on the runner; only its session is kept."""
    file = folder / ".ranges.onnx"
    try:
        save_onnx(model, file)
        return open_engine(runner.backend, Engine(runner.backend.name, file), device=runner.device).run
    finally:
        for part in folder.glob(f"{file.name}*"):
            part.unlink()


def _searched(
    spec: ModelSpec,
    model: onnx.ModelProto,
    measured: Measured,
    changes: Changes,
    folder: Path,
    progress: Progress,
    task: Task | None,
) -> Search:
    """Return the search for the nodes that have to stay float32, and write them to a file that people can review."""
    items, name = measured.samples.prepared[measured.opt.item_sizes], changes.wish.precision.name
    feeds = list(_single_feeds(spec, measured))
    metas = [[item.meta] * spec.batch.min for item in items]
    limits = Limits()

    def typed(kept: Collection[str]) -> onnx.ModelProto:
        return apply_rewrite(model, changes.of(To16Bit(name), kept))[0]

    judge = results_judge(spec, [measured.reference(feed) for feed in feeds], metas, limits)
    found = find_kept(
        model, typed, feeds, judge, name=name, progress=progress, task=partial(task, model) if task else None
    )
    besides = ", and the task metric to what it may lose" if task else ""
    heading = [
        f"Nodes that stay float32 in {name}: the smallest set that a search found for which decoded results",
        f"keep to {limits.score:g} in scores on {len(feeds)} samples{besides}.",
        "`convkit convert … --keep-fp32 FILE` takes it.",
    ]
    (folder / KEPT).parent.mkdir(exist_ok=True)
    write_keep_file(folder / KEPT, found.reasons, heading)
    return found.search


def _decisive(types: GraphPrecision, seen: Mapping[str, Range]) -> dict[str, Range]:
    """Return the ranges that kept a node in float32: reasons begin with the name of the tensor."""
    return {
        name: found
        for name, found in seen.items()
        if any(reason.startswith(f"{name} ") and "on the samples" in reason for reason in types.kept.values())
    }


def _stamp(model: onnx.ModelProto, records: Sequence[tuple[str, RewriteRecord]]) -> None:
    """Add to the ONNX file what the rewrites did, for `convkit diff`."""
    entry = next(entry for entry in model.metadata_props if entry.key == REWRITES_KEY)
    changes = [
        {"name": r.name, "removed": r.removed, "added": r.added, "changed": r.changed} for _, r in records if r.fired
    ]
    entry.value = json.dumps([*json.loads(entry.value), *changes])
