"""The task metric of a typed graph beside its float32 graph's, on data with annotations that the user names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit._text import printable
from convkit.artifact import MODEL, Artifact, spec_to_json
from convkit.errors import SettingError
from convkit.evaluation import check_data, evaluate_engines
from convkit.files import sha256
from convkit.graph import save_onnx
from convkit.model import ModelSpec
from convkit.progress import Progress
from convkit.proof import METRIC, Check
from convkit.runtime import Predictor, predictor_of

if TYPE_CHECKING:
    import onnx

    from convkit.conversion._stages import Runner

__all__ = ["Metric", "MetricData", "measure_metric", "metric_data", "metric_task"]

FIGURE = "AP"
_WIDE, _TYPED = ".float32.onnx", ".typed.onnx"


@dataclass(frozen=True)
class MetricData:
    """A named set of images with annotations, and by how much the metric may fall on it."""

    name: str
    coco: Path
    images: Path
    limit: float


@dataclass(frozen=True)
class Metric:
    """What a graph achieves on a set, in float32 and in its precision."""

    data: MetricData
    precision: str
    images: int
    wide: float
    typed: float

    @property
    def drop(self) -> float:
        """By how much the metric fell; negative where it rose."""
        return self.wide - self.typed

    def check(self) -> Check:
        """Return the check that it fell by no more than is allowed."""
        note = f"{FIGURE} {self.wide:.4f} in fp32, {self.typed:.4f} in {self.precision}"
        case = f"{self.images} images of {self.data.name}"
        passed = self.drop <= self.data.limit
        return Check(METRIC, case, FIGURE, passed, {"drop": max(self.drop, 0.0)}, {"drop": self.data.limit}, note)

    def to_json(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "data": self.data.name,
            "annotations_sha256": sha256(self.data.coco),
            "images": self.images,
            "figure": FIGURE,
            "fp32": self.wide,
            self.precision: self.typed,
            "drop": self.drop,
            "limit": self.data.limit,
        }


def metric_data(path: Path, spec: ModelSpec, drops: Mapping[str, float], precision: str) -> MetricData:
    """Return the set in a folder: ``annotations.json`` in COCO's format, and the folder ``images``.

    ``path`` may also be that file. ``drops`` are what an adapter allows, by precision.

    Raises:
        SettingError: there is no such file, it is no COCO file, or it does not fit the classes.
        ImageError: an image is missing.
        EnvironmentProblem: pycocotools is missing.
    """
    coco = path / "annotations.json" if path.is_dir() else path
    if not coco.is_file():
        raise SettingError(
            f"There is no file {coco}.", hint="--metric-data takes a folder with annotations.json and images/."
        )
    images = coco.parent / "images"
    images = images if images.is_dir() else coco.parent
    check_data(coco, images, spec.classes)
    name = printable(coco.parent.name if path.is_dir() else coco.name)
    if precision not in drops:
        raise SettingError(
            f"The adapter does not say by how much {FIGURE} may fall in {precision}.",
            hint="Add the precision to Adapter.metric_drop, or leave --metric-data out.",
        )
    return MetricData(name, coco, images, drops[precision])


def measure_metric(
    spec: ModelSpec,
    typed: ModelSpec,
    data: MetricData,
    precision: str,
    wide: onnx.ModelProto,
    runner: Runner,
    judge: Runner,
    folder: Path,
    progress: Progress,
) -> Metric:
    """Run all images of a set through the float32 graph (by ``runner``) and the one in ``folder`` (by ``judge``).

    ``typed`` is the specification of the latter.

    Raises:
        ConversionError: the model detects no boxes.
    """
    with _written(wide, folder, _WIDE) as file:
        engines = {"fp32": (spec, runner, file), precision: (typed, judge, folder / MODEL)}
        images, figures = _measured(data, engines, progress)
    return Metric(data, precision, images, figures["fp32"], figures[precision])


def metric_task(
    spec: ModelSpec, data: MetricData, precision: str, runner: Runner, judge: Runner, folder: Path, progress: Progress
) -> Callable[[onnx.ModelProto, onnx.ModelProto], tuple[bool, str]]:
    """Return what says of a float32 graph and a typed one whether the metric falls by no more than is allowed.

    The figure of the float32 graph is measured once; files are written below ``folder`` for a moment.
    """
    known: list[float] = []

    def task(wide: onnx.ModelProto, typed: onnx.ModelProto) -> tuple[bool, str]:
        if not known:
            with _written(wide, folder, _WIDE) as file:
                known.append(_measured(data, {"fp32": (spec, runner, file)}, progress)[1]["fp32"])
        with _written(typed, folder, _TYPED) as file:
            images, figures = _measured(data, {precision: (spec, judge, file)}, progress)
        check = Metric(data, precision, images, known[0], figures[precision]).check()
        return check.passed, f"{check.note}, {data.limit:g} less is allowed"

    return task


def _measured(
    data: MetricData, graphs: Mapping[str, tuple[ModelSpec, Runner, Path]], progress: Progress
) -> tuple[int, dict[str, float]]:
    """Return the number of images of a set and the figure of each graph on them."""
    classes = next(iter(graphs.values()))[0].classes
    with ExitStack() as stack:
        engines = {name: stack.enter_context(_predictor(*graph)) for name, graph in graphs.items()}
        reader = next(iter(engines.values())).reader
        report = evaluate_engines(engines, classes, data.coco, data.images, reader=reader, progress=progress)
    return report.images, {name: report.figures[name][FIGURE] for name in graphs}


@contextmanager
def _written(model: onnx.ModelProto, folder: Path, name: str) -> Iterator[Path]:
    """Write a graph for a moment."""
    try:
        save_onnx(model, folder / name)
        yield folder / name
    finally:
        for part in folder.glob(f"{name}*"):
            part.unlink()


@contextmanager
def _predictor(spec: ModelSpec, runner: Runner, file: Path) -> Iterator[Predictor]:
    session = runner.open(file)
    with predictor_of(Artifact(file.parent, {"model": spec_to_json(spec)}), session) as predictor:
        yield predictor
