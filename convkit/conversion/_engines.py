"""Engines of an artifact: the graph fitted to a backend, proved again, built, and written beside the proof."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from convkit.artifact import Artifact, engine_staging, spec_from_manifest
from convkit.backends import (
    FAILED,
    NOT_APPLICABLE,
    PASSED,
    PENDING,
    Backend,
    BuildRequest,
    Engine,
    Ladder,
    Rung,
    backend_named,
    find_builder,
    open_session,
    proving_backend,
)
from convkit.conversion._audit import audit
from convkit.conversion._calibration import CalibrationFiles
from convkit.conversion._changes import DEFAULT_METHOD, Changes, Wish, measure_changes
from convkit.conversion._edges import changed_edges, engine_edges
from convkit.conversion._export import check_graph
from convkit.conversion._options import resolve_options
from convkit.conversion._typed import prove_typed
from convkit.errors import ConversionError, ProofFailedError, SettingError
from convkit.files import sha256
from convkit.graph import Rewrite, RewriteRecord, apply_rewrite, in_phases, save_onnx
from convkit.graph.precision import NarrowEdges, widened_model
from convkit.inspection import GraphPrecision, graph_precision, graph_stats
from convkit.model import ModelSpec, Precision, Target, find_precision, resolve
from convkit.plugins import manager
from convkit.processing import find_decode
from convkit.progress import Progress, silent
from convkit.proof import GoldenSamples, Verdict, decoded_rung, engine_cases, failures_json, feed_key, prove

__all__ = ["BuiltEngine", "build_engine"]

_FLOAT32 = "fp32"


@dataclass(frozen=True)
class BuiltEngine:
    """An engine of an artifact: its folder, what was built, and what was proved of it."""

    folder: Path
    engine: Engine
    ladder: Ladder


def build_engine(
    path: Path | str,
    to: str,
    *,
    targets: Sequence[str] = (),
    precision: str | None = None,
    io_precision: str | None = None,
    calibrate: Path | None = None,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> BuiltEngine:
    """Build an engine of an artifact, from the artifact alone, and write it to ``engines/<to>`` in it.

    The rewrites of phase *target* fit the graph to the backend; what they change is proved on the golden samples
    before the backend parses it. ``precision`` ``fp16``, ``bf16`` or ``int8`` types a float32 graph first, by the
    rewrites of phase *precision*, and is proved by a rung of its own; the default is that of the artifact, whose types
    a typed artifact keeps. ``io_precision`` ``fp16`` makes inputs and outputs of an engine in fp16 or int8 float16; the
    default is that of the artifact. int8 of a float32 artifact is calibrated with the inputs of the folder
    ``calibrate``, by ``method``. An engine of that name is replaced. ``options`` override those of the conversion.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved.
        SettingError: there is no such backend, target, precision or option, or the artifact has another precision.
        InputError: there are too few inputs for calibration, or one cannot be read.
        ProofFailedError: the graph for the backend, or what the backend understood, computes something else; the
            result was kept as ``engines/<to>.rejected``.
        ConversionError: the backend does not accept or build the graph.
        EnvironmentProblem: the backend cannot build here.
    """
    asked = find_precision(precision) if precision is not None else None
    artifact = Artifact.open(path)
    kind = _precision_of(artifact, asked)
    typing = kind.name != _FLOAT32 and not _is_typed(artifact)
    if (calibrate or method) and not (typing and kind.rest):
        raise SettingError(
            "Inputs for calibration are for int8 engines of float32 artifacts.", hint="Leave --calibrate out."
        )
    backend = find_builder(to)
    target = _target(artifact, to, kind, options or {})
    backend.check_build(targets, target.options)
    progress("checking hashes")
    artifact.verify()
    spec = spec_from_manifest(artifact.manifest)
    edges = engine_edges(spec, kind, io_precision)
    files = CalibrationFiles(spec, calibrate) if calibrate else None
    wish = Wish(kind, calibration=files, method=method or DEFAULT_METHOD) if typing else None
    with engine_staging(artifact.path, to) as staged:
        folder = staged.folder
        golden = GoldenSamples.load(artifact.path, spec, artifact.manifest["files"])
        fitted = _fit(artifact, spec, replace(target, precision=_FLOAT32), folder, progress)
        rungs, known = _prove_fitted(artifact, spec, golden, fitted, progress)
        details: dict[str, Any] = {}
        if kind.name != _FLOAT32 and rungs[0].status == PASSED:
            fitted, typed, details = _type(artifact, spec, edges, golden, target, kind, wish, folder, progress)
            known, rungs = _Known(), [*rungs, *typed]
        ladder = Ladder(()).replaced(rungs)
        engine = Engine(backend.name, folder / "model.plan")
        if ladder.exit_code == 0:
            request = _request(edges, golden.fitted(edges), targets, target, known)
            engine = backend.build(fitted.graph, folder, request, progress)
            ladder = ladder.replaced((*engine.ladder.rungs, _pipeline(to)))
        if kind.name == _FLOAT32:
            ladder = ladder.completed(NOT_APPLICABLE, {"typed": "The engine is float32."})
        ladder = ladder.completed(PENDING, {}, "A rung below has to pass first.")
        if edges != spec:
            details["io"] = changed_edges(spec, edges)
        _write(folder, artifact, backend, target, engine, ladder, fitted.records, details)
        kept = staged.publish(rejected=ladder.exit_code != 0)
    if ladder.exit_code:
        raise _refusal(kept, to, ladder)
    return BuiltEngine(kept, Engine(engine.backend, kept / engine.file.name, engine.targets, engine.details), ladder)


def _precision_of(artifact: Artifact, asked: Precision | None) -> Precision:
    """Return the precision of the engine: the one that is asked for, which a typed artifact has to have already.

    Raises:
        SettingError: it has another.
    """
    own = find_precision(artifact.manifest["graph"]["precision"])
    if asked is None or asked == own or own.name == _FLOAT32:
        return asked or own
    raise SettingError(
        f"{artifact.path} is {own.name}, and an engine in {asked.name} was asked for.",
        hint=f"Leave --precision out, or convert again with --precision {asked.name}.",
    )


def _is_typed(artifact: Artifact) -> bool:
    return bool(artifact.manifest["graph"]["precision"] != _FLOAT32)


def _typing(artifact: Artifact) -> list[RewriteRecord]:
    """Return what the rewrites did that gave a typed artifact its types; none for a float32 one."""
    names = [field.name for field in fields(RewriteRecord)]
    found = artifact.manifest["rewrites"] if _is_typed(artifact) else []
    records = [RewriteRecord(**{name: entry[name] for name in names}) for entry in found]
    return [record for record in records if record.name.startswith("graph.to-")]


def _target(artifact: Artifact, to: str, precision: Precision, options: Mapping[str, Any]) -> Target:
    """Return what is built for; a setting that such an engine cannot have is refused by who brings the rewrites."""
    graph, name = artifact.manifest["graph"], artifact.manifest["adapter"]["name"]
    chosen = {**graph["options"], **resolve_options(options)}
    target = Target(to, graph["opset"], graph["form"], precision.name, chosen)
    manager().gather("convkit_graph_rewrites", of=Rewrite, adapter=name, target=target)
    return target


@dataclass(frozen=True)
class _Fitted:
    """A graph for a backend, the artifact's own where no rewrite changed it, and what the rewrites did by plugin."""

    graph: Path
    records: Sequence[tuple[str, RewriteRecord]]


def _type(
    artifact: Artifact,
    spec: ModelSpec,
    edges: ModelSpec,
    golden: GoldenSamples,
    target: Target,
    kind: Precision,
    wish: Wish | None,
    folder: Path,
    progress: Progress,
) -> tuple[_Fitted, list[Rung], dict[str, Any]]:
    """Return the graph in the types of a precision, its rungs, and what int8 was calibrated with, for ``engine.json``.

    ``edges`` is the specification with the types that inputs and outputs get; ``wish`` is None for an artifact that is
    typed already. Without inputs for calibration nothing is known of the ranges of values.

    Raises:
        ConversionError: too little of the arithmetic has the types that were asked for.
    """
    import onnx

    model, changes = onnx.load(str(artifact.model)), None
    if wish and wish.calibration:
        changes = measure_changes(model, wish, (), progress=progress)
    fitted = _fit(artifact, spec, target, folder, progress, changes, edges)
    records = [*_typing(artifact), *(record for _, record in fitted.records)]
    audit(_types(fitted.graph, spec), kind, [miss for record in records for miss in record.near_misses])
    yardstick = changes.write_yardstick(model, artifact.model, folder) if changes else artifact.model
    try:
        rungs = prove_typed(artifact, spec, edges, golden, fitted.graph, kind, records, yardstick, progress)
    finally:
        Changes.forget_yardstick(folder)
    calibrated = changes.calibration if changes else None
    return fitted, rungs, {"calibration": calibrated.to_json()} if calibrated else {}


def _types(graph: Path, spec: ModelSpec) -> GraphPrecision:
    import onnx

    model = onnx.load(str(graph))
    return graph_precision(model, graph_stats(model, {dim.name: dim.opt for dim in spec.dims}))


def _fit(
    artifact: Artifact,
    spec: ModelSpec,
    target: Target,
    folder: Path,
    progress: Progress,
    changes: Changes | None = None,
    edges: ModelSpec | None = None,
) -> _Fitted:
    """Fit the graph to the backend; for a precision that is not float32, type it first unless the artifact is typed.

    Of a typed artifact float32 means the same graph with float32 in place of its 16-bit types. ``edges`` are other
    types of inputs and outputs, those of the artifact by default.
    """
    import onnx

    name = artifact.manifest["adapter"]["name"]
    found = manager().gather("convkit_graph_rewrites", of=Rewrite, adapter=name, target=target)
    model = onnx.load(str(artifact.model))
    if _is_typed(artifact) and target.precision == _FLOAT32:
        model = widened_model(model)
        narrow = [tensor.name for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype == "float16"]
        model = apply_rewrite(model, NarrowEdges(narrow))[0] if narrow else model
    phases = ("target",) if target.precision == _FLOAT32 or _is_typed(artifact) else ("precision", "target")
    todo = [(plugin, change) for plugin, change in in_phases(found) if change.phase in phases]
    if edges and edges != spec:
        place = sum(change.phase == "precision" for _, change in todo)
        todo.insert(place, ("graph", NarrowEdges(changed_edges(spec, edges))))
    records = []
    for plugin, change in todo:
        progress(f"rewriting: {change.name}")
        rewrite = changes.of(change) if changes else change
        model, record = apply_rewrite(model, rewrite, spec.expect.get(change.name))
        records.append((plugin, record))
    if not any(record.fired for _, record in records):
        return _Fitted(artifact.model, records)
    check_graph(model, f"the rewrites of phase {' and '.join(phases)}")
    save_onnx(model, folder / "model.onnx")
    return _Fitted(folder / "model.onnx", records)


def _titled(runner: str) -> str:
    """Return a backend that proves graphs as a text reads it: ``ONNX Runtime 1.32.0``."""
    title = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch"}.get(runner, runner)
    return f"{title} {backend_named(runner).describe().get('version', '')}".strip()


@dataclass
class _Known:
    """What a graph gave on feeds, by their keys, and the backend that ran it."""

    outputs: dict[bytes, Mapping[str, np.ndarray]] = field(default_factory=dict)
    by: str = ""

    def of(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
        """Return the outputs for each of these feeds, nothing unless all are known."""
        found = [self.outputs.get(feed_key(feed)) for feed in feeds]
        return [outputs for outputs in found if outputs is not None] if None not in found else []


def _prove_fitted(
    artifact: Artifact, spec: ModelSpec, golden: GoldenSamples, fitted: _Fitted, progress: Progress
) -> tuple[list[Rung], _Known]:
    """Return the rungs of the float32 graph, and what that gave: the artifact's own is proved, another is proved here.

    ONNX Runtime runs it, or where a rewrite put in an operator that it lacks, the backend ``torch``.
    """
    import onnx

    graph, records = fitted.graph, fitted.records
    if graph == artifact.model:
        headline = artifact.manifest["verdict"]["headline"]
        decoded = Ladder.from_json(artifact.verdict["ladder"])["decoded"]
        return [Rung("exported", PASSED, f"The graph of the artifact: {headline}."), decoded], _Known()
    recorded = Verdict.from_json(artifact.verdict)
    runner = proving_backend(onnx.load(str(graph), load_external_data=False))
    session, known = open_session(runner, graph), _Known(by=_titled(runner))

    def run(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        key = feed_key(feed)  # samples repeat in a batch, and the smallest case is one of them
        if key not in known.outputs:
            known.outputs[key] = session.run(feed)
        return known.outputs[key]

    try:
        verdict = prove(
            spec,
            reference=golden.reference(),
            engine=run,
            samples=golden.samples,
            cases=engine_cases(spec.dims),
            baselines=recorded.baselines,
            decode=find_decode(spec.decode),
            verdict=Verdict(runner, "cpu", f"stored {recorded.reference} results"),
            progress=progress,
        )
    finally:
        session.close()
    fired = {record.name: record.fired for _, record in records if record.fired}
    names = ", ".join(f"{name} ({count})" for name, count in fired.items())
    status = PASSED if verdict.passed else FAILED
    details = {"backend": runner, "rewrites": fired, "checks": failures_json(verdict.checks)}
    exported = Rung("exported", status, f"Rewritten by {names}; {verdict.headline()}.", details)
    return [exported, decoded_rung(verdict)], known


def _request(
    spec: ModelSpec, golden: GoldenSamples, targets: Sequence[str], target: Target, known: _Known
) -> BuildRequest:
    corners = [{dim.name: getattr(dim, corner) for dim in spec.dims} for corner in ("min", "opt", "max")]
    ranges = {
        tensor.name: tuple(resolve(tensor.shape, sizes) for sizes in corners)
        for tensor in spec.inputs
        if any(isinstance(extent, str) for extent in tensor.shape)
    }
    varying = {name: shapes for name, shapes in ranges.items() if len(set(shapes)) > 1}
    feeds: list[Mapping[str, np.ndarray]] = [golden.samples.feed(case) for case in engine_cases(spec.dims)]
    return BuildRequest(
        tuple(targets),
        varying,  # type: ignore[arg-type]
        feeds,
        target.options,
        known.of(feeds),
        known.by,
    )


def _pipeline(to: str) -> Rung:
    return Rung(
        "pipeline", PENDING, f"From raw inputs to results by {to} on a GPU; nothing was run and nothing measured."
    )


def _write(
    folder: Path,
    artifact: Artifact,
    backend: Backend,
    target: Target,
    engine: Engine,
    ladder: Ladder,
    records: Sequence[tuple[str, RewriteRecord]],
    details: Mapping[str, Any],
) -> None:
    files = {
        file.name: {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.iterdir())
        if file.is_file()
    }
    description = {
        "backend": backend.name,
        "targets": list(engine.targets),
        "precision": target.precision,
        "options": dict(target.options),
        "artifact": {"model.onnx": artifact.manifest["files"]["model.onnx"]["sha256"]},
        "rewrites": [{"plugin": plugin, "name": record.name, "fired": record.fired} for plugin, record in records],
        "plan": engine.file.name,
        "files": files,
        **details,
        **engine.details,
    }
    for name, document in (("engine.json", description), ("verdict.json", {"ladder": ladder.to_json()})):
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def _refusal(kept: Path, to: str, ladder: Ladder) -> ConversionError | ProofFailedError:
    rung = next(rung for rung in ladder.rungs if rung.status == FAILED)
    remedy = rung.details.get("hint", "")
    hint = f"{remedy}{' ' * bool(remedy)}What was found is in {kept / 'verdict.json'}."
    if rung.name in ("exported", "typed", "decoded", "understood"):
        return ProofFailedError(
            f"The engine for {to} does not compute what the model computes: {rung.summary}", hint=hint
        )
    nodes = [
        f"\n  node {error['node']} {error['operator']} {error['name']!r}: {error['message']}"
        for error in rung.details.get("errors", [])[:8]
    ]
    return ConversionError(f"{to} did not get past {rung.name!r}: {rung.summary}", hint=hint + "".join(nodes))
