"""convert(): from what was asked to the published artifact, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit._text import read_text
from convkit.artifact import Artifact, anchored, staging
from convkit.backends import find_builder, find_graph_backend
from convkit.conversion._calibration import CalibrationFiles, CalibrationInputs, CalibrationSamples
from convkit.conversion._clock import StageClock
from convkit.conversion._inputs import RawInputs, adapter_inputs, own_inputs
from convkit.conversion._settings import AUTO, ConvertSettings, read_config, resolve_settings
from convkit.conversion._writing import reserve, write_artifact
from convkit.errors import CheckpointError, ConvkitError, Interrupted, SettingError, blamed_on
from convkit.graph import Rewrite
from convkit.model import Adapter, Request, SourceModel, Target, find_precision
from convkit.plugins import manager
from convkit.processing import find_preprocess, prepare
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    from convkit.backends import Ladder
    from convkit.conversion._brought import BroughtGraph
    from convkit.conversion._engines import BuiltEngine
    from convkit.conversion._metric import MetricData
    from convkit.proof import Verdict

__all__ = ["STAGES", "Conversion", "ConversionPlan", "convert", "default_output", "plan_conversion", "run_plan"]

STAGES = (
    "read the checkpoint",
    "check the adapter on two samples",
    "run PyTorch in float64 and float32",
    "patch and export to ONNX",
    "rewrite the graph",
    "prove every shape on the engine",
    "write the artifact",
)
"""What `run_plan` does, in its order."""
READ, CHECK, MEASURE, EXPORT, REWRITE, PROVE, WRITE = STAGES
TYPE, BUILD = "type the graph and prove it again", "build the engine"


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: the artifact, its verdict and ladder, and the engine that was asked for besides.

    ``seconds`` says how long each stage took, by its name.
    """

    artifact: Artifact
    verdict: Verdict
    ladder: Ladder
    engine: BuiltEngine | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ConversionPlan:
    """What was asked of one conversion, resolved; ``output`` None means `default_output`."""

    adapter: Adapter
    settings: ConvertSettings
    weights: Path
    output: Path | None
    brought: BroughtGraph | None = None
    """The user's own graph, once it was read."""

    @property
    def target(self) -> Target:
        """What the hooks learn of the artifact's graph while it is float32: it is typed after that was proved."""
        settings = self.settings
        return Target("onnx", settings.opset, settings.form, "fp32", settings.options)

    @property
    def stages(self) -> tuple[str, ...]:
        """What `run_plan` does, in its order; typed artifacts have a stage of their own."""
        return (*STAGES[:-1], TYPE, STAGES[-1]) if self.typed else STAGES

    @property
    def precision(self) -> str:
        """The precision of the graph; one that is searched for (``auto``) is float16 with what has to stay float32."""
        if self.brought:
            return self.brought.precision.name
        return "fp16" if self.settings.precision == AUTO else self.settings.precision

    @property
    def typed(self) -> bool:
        """Whether the graph gets other types than float32, or the user brings one."""
        return self.settings.precision != "fp32" or self.settings.graph is not None


def convert(
    adapter: str,
    *,
    weights: Path | str,
    output: Path | str | None = None,
    config: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> Conversion:
    """Convert a checkpoint to a proved artifact.

    ``settings`` are those of `ConvertSettings`: ``form``, ``shape`` (list of ``NAME=N`` or ``NAME=MIN:OPT:MAX``),
    ``opset``, ``precision``, ``io_precision``, ``keep_fp32`` (file), ``calibrate`` (folder) and ``calibration``
    (method) of int8, ``to`` and ``target`` (of an engine besides), ``inputs`` (file or folder), ``names`` (file),
    ``samples``, ``seed``, ``backend``, ``device``, and ``set`` (mapping of adapter options).

    Raises:
        AdapterNotFoundError, SettingError, CheckpointError, OutputError: what was asked cannot be done.
        ConversionError: a stage failed.
        ProofFailedError: the engine does not compute what PyTorch computes; the result was kept beside ``output`` as
            ``<output>.rejected``.
    """
    plan = plan_conversion(adapter, weights=weights, output=output, config=config, settings=settings)
    return run_plan(plan, overwrite=overwrite, progress=progress)


def plan_conversion(
    adapter: str,
    *,
    weights: Path | str,
    output: Path | str | None = None,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ConversionPlan:
    """Resolve what was asked; of the checkpoint only that is read from which defaults follow."""
    chosen = manager().adapter(adapter)
    table, origin = read_config(config)
    resolved = resolve_settings(chosen, settings or {}, table, origin, Path(weights))
    target = Path(output) if output else None
    if target and target.name in ("", ".."):  # a name is needed for what is beside it meanwhile
        target = anchored(target)
    return ConversionPlan(chosen, resolved, Path(weights), target)


def run_plan(plan: ConversionPlan, *, overwrite: bool = False, progress: Progress = silent) -> Conversion:
    """Run all stages; see `convert`.

    Raises:
        Interrupted: instead of every KeyboardInterrupt; it says what was written.
    """
    from convkit.conversion._engines import build_engine

    done: Conversion | None = None
    clock = StageClock()
    try:
        done = _run_plan(plan, overwrite, progress, clock)
        settings = plan.settings
        if settings.to == "onnx":
            return done
        with clock.stage(BUILD):
            engine = build_engine(done.artifact.path, settings.to, targets=settings.target, progress=progress)
    except Interrupted:
        raise
    except KeyboardInterrupt as error:
        raise Interrupted(f"{done.artifact.path} was written" if done else "nothing was written") from error
    except ConvkitError as error:
        if done:
            error.hint = f"{error.hint} The artifact {done.artifact.path} was written, without an engine.".strip()
        raise
    return replace(done, engine=engine)


def _run_plan(plan: ConversionPlan, overwrite: bool, progress: Progress, clock: StageClock) -> Conversion:
    """Run the stages of the artifact itself."""
    from convkit.conversion._brought import check_edges, read_graph
    from convkit.conversion._changes import Wish
    from convkit.conversion._metric import measure_metric, metric_task
    from convkit.conversion._preflight import check_network, check_processing
    from convkit.conversion._proving import prove_graph
    from convkit.conversion._record import conversion_record
    from convkit.conversion._reference import Reference
    from convkit.conversion._stages import Runner, export, rewrite, write_device_kernels
    from convkit.conversion._typing import bring_graph, judge_of, prove_typed_graph, read_kept, type_graph

    if plan.settings.graph:
        asked = plan.settings.precision if plan.settings.origins["precision"] != "built-in" else ""
        plan = replace(plan, brought=read_graph(plan.settings.graph, asked))
    name, settings, target = plan.adapter.name, plan.settings, plan.target
    if settings.to != target.format:  # what the engine cannot get is refused before the work
        manager().gather("convkit_graph_rewrites", of=Rewrite, adapter=name, target=replace(target, format=settings.to))
        find_builder(settings.to).check_build(settings.target, settings.options)
    if plan.output:
        reserve(plan.output, overwrite=overwrite)
    runner = Runner(find_graph_backend(settings.backend, settings.device), settings.device)
    judge = Runner(judge_of(settings.backend, settings.device, plan.precision), settings.device)
    if settings.keep_fp32 and not settings.keep_fp32.is_file():
        raise SettingError(f"There is no file {settings.keep_fp32}.", hint="Check --keep-fp32.")
    progress("reading the checkpoint")
    plugin = manager().owner(name).name
    with clock.stage(READ, plugin):
        source = _load(plan, plugin)
    if plan.brought:
        check_edges(source.spec, plan.brought)
    data = _metric_data(plan, source)
    shown = plan.precision if plan.brought else settings.precision
    output = plan.output or default_output(plan.adapter, source, settings.form, shown)
    if not plan.output:
        reserve(output, overwrite=overwrite)
    progress("checking the adapter on two samples")
    with clock.stage(CHECK, plugin):
        inputs = _inputs(plan, source)
        calibration = _calibration(plan, source, inputs) if find_precision(plan.precision).rest else None
        checked = check_processing(name, source, settings.dims, inputs, target, plugin)
    with staging(output) as folder:
        with clock.stage(MEASURE, plugin):
            reference = Reference(source, inputs, plugin, progress)
        with reference:
            with clock.stage(CHECK, plugin):
                check_network(checked, reference.float32)
            with clock.stage(MEASURE, plugin):
                reference.check_in(progress)
            with clock.stage(EXPORT, plugin):
                exported = export(source, target, checked.patches, reference.ledger, plugin, progress)
            with clock.stage(REWRITE):
                rewritten = rewrite(
                    name, source.spec, target, checked.rewrites, exported, runner, reference.ledger, folder, progress,
                    keep_exported=settings.keep_exported,
                )  # fmt: skip
            with clock.stage(MEASURE, plugin):
                measured = reference.measured(progress)
        exported = replace(exported, model=rewritten.model)  # each copy of a graph holds all weights
        keep = read_kept(settings.keep_fp32, rewritten.model)
        with clock.stage(PROVE):
            proved = prove_graph(source.spec, rewritten.model, measured, inputs, runner, folder, progress)
        typed = None
        if plan.typed and proved.verdict.passed:
            with clock.stage(TYPE):
                wish = Wish(
                    find_precision(plan.precision), keep, settings.precision == AUTO, calibration, settings.calibration,
                    settings.io_precision,
                )  # fmt: skip
                task = None
                if data:
                    task = metric_task(source.spec, data, plan.precision, runner, judge, folder, progress)
                if plan.brought:
                    typed = bring_graph(source.spec, plan.brought, rewritten, measured, runner, wish, folder, progress)
                else:
                    typed = type_graph(
                        name, source.spec, replace(target, precision=plan.precision), rewritten, measured, runner, wish,
                        folder, progress, task,
                    )  # fmt: skip
                metric = None
                if data:
                    metric = partial(
                        measure_metric, source.spec, typed.spec, data, plan.precision, rewritten.model, runner, judge,
                        folder, progress,
                    )  # fmt: skip
                proved = prove_typed_graph(
                    source.spec, measured, inputs, proved, typed, judge, folder, progress, metric
                )
        proved.verdict.notes.extend(map(str, source.spec.info.get("notes", ())))
        with clock.stage(WRITE, plugin):
            write_device_kernels(source.spec, folder, progress)
            progress("writing the artifact")
            manifest = conversion_record(plan, source, exported, rewritten, proved, typed)
            artifact = write_artifact(
                folder, output, manifest, rewritten, proved, typed, overwrite=overwrite, progress=progress
            )
    return Conversion(artifact, proved.verdict, proved.ladder, seconds=clock.seconds)


def _load(plan: ConversionPlan, plugin: str) -> SourceModel:
    from convkit.conversion._preflight import check_source
    from convkit.conversion._unused import refuse_unused

    if plan.weights.is_dir() and not plan.adapter.weights_folder:
        raise CheckpointError(
            f"{plan.weights} is a folder; adapter {plan.adapter.name!r} reads files.", hint="Give a file in it."
        )
    own = {option.name: plan.settings.options[option.name] for option in plan.adapter.options}
    request = Request(plan.weights, plan.settings.form, plan.settings.dims, _read_names(plan.settings.names), own)
    with blamed_on(f"load() of adapter {plan.adapter.name!r}", plugin):
        found = plan.adapter.load(request)
    source = check_source(found, plan.adapter.name, plugin)
    refuse_unused(source, plan.settings, own, plugin)
    for name, tensor in source.module.state_dict().items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{plan.weights} holds NaN or infinite weights: {name}.",
                hint="Training diverged or the file is damaged: give an earlier checkpoint.",
            )
    return source


def _inputs(plan: ConversionPlan, source: SourceModel) -> RawInputs:
    if plan.settings.inputs is not None:
        return own_inputs(source.spec, plan.settings.inputs, plan.settings.samples)
    return adapter_inputs(plan.adapter, source.spec, plan.settings.samples, plan.settings.seed)


def _metric_data(plan: ConversionPlan, source: SourceModel) -> MetricData | None:
    """Return the data on which the task metric is measured in both precisions."""
    from convkit.conversion._metric import metric_data

    if plan.settings.metric_data is None or plan.precision == "fp32":
        return None
    return metric_data(plan.settings.metric_data, source.spec, plan.adapter.metric_drop, plan.precision)


def _calibration(plan: ConversionPlan, source: SourceModel, inputs: RawInputs) -> CalibrationInputs:
    """Return the inputs for calibration: those of a folder, or else the samples of the proof."""
    if plan.settings.calibrate is not None:
        return CalibrationFiles(source.spec, plan.settings.calibrate)
    preprocess = find_preprocess(source.spec.preprocess)
    items = [prepare(source.spec, preprocess, raw) for raw in inputs.values]
    return CalibrationSamples(source.spec, items, inputs.names, inputs.origin)


def default_output(adapter: Adapter, source: SourceModel, form: str, precision: str = "fp32") -> Path:
    """Return for example ``centernet-resdcn18-512`` or ``centernet-resdcn18-64x96-detections-fp16``."""
    dims = {dim.name: dim for dim in source.spec.dims}
    parts = [adapter.name, source.spec.variant.replace("_", "")]
    if "height" in dims and "width" in dims:
        height, width = dims["height"], dims["width"]
        parts.append(f"{height.opt}" if height.opt == width.opt else f"{height.opt}x{width.opt}")
    if form != adapter.forms[0]:
        parts.append(form)
    if precision != "fp32":
        parts.append(precision)
    return Path("-".join(part for part in parts if part))


def _read_names(path: Path | None) -> tuple[str, ...] | None:
    """Return the class names of a file, one on each line."""
    if path is None:
        return None
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise SettingError(f"The names file {path} cannot be read: {error}", hint="Give a UTF-8 text file.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise SettingError(f"The names file {path} is empty.", hint="Write one class name on each line.")
    return names
