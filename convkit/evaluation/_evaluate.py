"""Average precision of an artifact on a COCO-format data set, streamed image by image."""

from __future__ import annotations

import contextlib
import io
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.artifact import Artifact
from convkit.errors import ConversionError, SettingError
from convkit.evaluation._annotations import read_annotations
from convkit.evaluation._categories import category_ids
from convkit.evaluation._image_files import check_size, find_images
from convkit.files import sha256
from convkit.progress import Progress, silent
from convkit.results import Detections, Result

if TYPE_CHECKING:
    from convkit.runtime import Predictor

__all__ = ["METRICS", "EvaluationReport", "check_data", "evaluate_artifact", "evaluate_engines"]

AGREEMENT = 1e-3
"""By how much the AP of the artifact and of PyTorch may differ."""
METRICS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100", "AR small",
           "AR medium", "AR large")  # fmt: skip


@dataclass(frozen=True)
class EvaluationReport:
    """COCO's twelve figures by engine; ``agrees`` is False when the AP of two engines differs by more than 0.001."""

    figures: Mapping[str, Mapping[str, float]]
    images: int
    annotations: int
    seconds: float
    notes: tuple[str, ...] = ()
    """What a reader of the figures has to know."""
    unproved: str = ""
    """Why no proof covers the engine; empty where one does."""

    @property
    def agrees(self) -> bool:
        """Whether every engine has the same AP to 0.001."""
        values = [table["AP"] for table in self.figures.values()]
        return max(values) - min(values) <= AGREEMENT

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "figures": {name: dict(table) for name, table in self.figures.items()},
            "agrees": self.agrees,
            "images": self.images,
            "annotations": self.annotations,
            "seconds": round(self.seconds, 2),
            "notes": list(self.notes),
            **({"unproved": True} if self.unproved else {}),
        }


def evaluate_artifact(
    artifact: Path | str,
    coco: Path,
    images: Path,
    *,
    weights: Path | None = None,
    limit: int | None = None,
    backend: str | None = None,
    device: str | None = None,
    unproved: bool = False,
    signed_by: Path | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """Return the COCO figures of an artifact, and of its checkpoint in PyTorch where ``weights`` is given.

    Images are read, run and dropped one at a time; of each detection 56 bytes are kept. ``backend``, ``device``,
    ``unproved`` and ``signed_by`` are those of `load`.

    Raises:
        SettingError: the annotations are no COCO file or do not fit the classes.
        EnvironmentProblem: pycocotools is missing.
        ValidationError: no proof covers the backend on this device.
        IntegrityError: the artifact is not what was proved, or what was signed.
    """
    from convkit.runtime import load

    with load(artifact, backend=backend, device=device, unproved=unproved, signed_by=signed_by) as predictor:
        engines: dict[str, Callable[[Path], Result]] = {predictor.backend: predictor}
        if weights is not None:
            engines["pytorch"] = _torch_predictor(predictor.artifact, weights, predictor)
        report = evaluate_engines(engines, predictor.spec.classes, coco, images, limit=limit, progress=progress)
    notes = (*report.notes, *filter(None, (predictor.coverage.note,)))
    return replace(report, notes=notes, unproved=predictor.unproved)


def evaluate_engines(
    engines: Mapping[str, Callable[[Path], Result]],
    classes: Sequence[str],
    coco: Path,
    images: Path,
    *,
    limit: int | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """Return the COCO figures of anything that makes detections of an image file, by name.

    ``classes`` are the names that the class numbers of the detections stand for.

    Raises:
        SettingError: the annotations are no COCO file or do not fit the classes.
        EnvironmentProblem: pycocotools is missing.
    """
    started = time.perf_counter()
    data = read_annotations(coco)
    ids = sorted(data.names)[:limit]
    files = find_images(images, {image_id: data.names[image_id] for image_id in ids})
    categories, notes = category_ids(data, tuple(classes))
    rows: dict[str, array[float]] = {name: array("d") for name in engines}
    for number, image_id in enumerate(ids):
        progress("running images", number, len(ids))
        check_size(files[image_id], data.sizes.get(image_id))
        for name, engine in engines.items():
            rows[name].extend(_rows(engine(files[image_id]), image_id, categories))
    progress("computing AP")
    figures = {name: _coco_figures(data.truth, values, ids) for name, values in rows.items()}
    return EvaluationReport(figures, len(ids), data.count, time.perf_counter() - started, (*data.notes, *notes))


def check_data(coco: Path, images: Path, classes: Sequence[str]) -> int:
    """Return the number of images of a data set whose annotations and classes fit and whose images are there.

    Raises:
        SettingError: the annotations are no COCO file or do not fit the classes.
        ImageError: an image is missing.
        EnvironmentProblem: pycocotools is missing.
    """
    data = read_annotations(coco)
    category_ids(data, tuple(classes))
    return len(find_images(images, data.names))


def _rows(result: Result, image_id: int, categories: list[int]) -> Iterator[float]:
    if not isinstance(result, Detections):
        raise ConversionError("This artifact does not detect boxes.", hint="evaluate needs an artifact of a detector.")
    for box, score, class_id in zip(result.boxes, result.scores, result.class_ids, strict=True):
        x1, y1, x2, y2 = (float(value) for value in box)
        yield from (image_id, x1, y1, x2 - x1, y2 - y1, float(score), categories[int(class_id)])


def _coco_figures(truth: Any, rows: array[float], ids: list[int]) -> dict[str, float]:
    from pycocotools.cocoeval import COCOeval

    table = np.frombuffer(rows, np.float64).reshape(-1, 7)
    whole = COCOeval(truth, None, "bbox")
    whole.params.imgIds = ids
    precision, recall = [], []
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools holds about 5 kB a detection while it works: category by category that stays little.
        for category in whole.params.catIds:
            judge = COCOeval(truth, _coco_results(truth, table[table[:, 6] == category]), "bbox")
            judge.params.imgIds, judge.params.catIds = ids, [category]
            judge.evaluate()
            judge.accumulate()
            precision.append(judge.eval["precision"])
            recall.append(judge.eval["recall"])
        whole.eval = {"precision": np.concatenate(precision, axis=2), "recall": np.concatenate(recall, axis=1)}
        whole.summarize()
    return {name: float(value) for name, value in zip(METRICS, whole.stats, strict=True)}


def _coco_results(truth: Any, table: np.ndarray) -> Any:
    """Return detections as pycocotools wants them; its own loader refuses an empty table."""
    from pycocotools.coco import COCO

    if len(table):
        return truth.loadRes(table)
    results = COCO()
    results.dataset = {**truth.dataset, "annotations": []}
    results.createIndex()
    return results


def _torch_predictor(artifact: Artifact, weights: Path, predictor: Predictor) -> Callable[[Path], Result]:
    """Return what runs an image through the checkpoint in PyTorch, with the artifact's preprocess and decode."""
    from convkit.model import Request
    from convkit.plugins import manager
    from convkit.processing import collate, decode_batch, find_decode
    from convkit.proof import TorchCompute

    manifest, spec = artifact.manifest, predictor.spec
    if not weights.is_file() or sha256(weights) != manifest["weights"].get("sha256"):
        raise SettingError(
            f"{weights} is not the checkpoint this artifact was made from ({manifest['weights']['file']}).",
            hint="Give that file, or convert this one.",
        )
    graph = manifest["graph"]
    source = (
        manager()
        .adapter(manifest["adapter"]["name"])
        .load(Request(weights, graph["form"], spec.dims, tuple(spec.classes), graph["options"]))
    )
    compute, decode = TorchCompute(source, source.module, "float32", remember=False), find_decode(spec.decode)
    assert decode is not None

    def run(file: Path) -> Result:
        prepared = predictor.prepare(file)
        return decode_batch(decode, compute(collate(spec.inputs, [prepared])), [prepared.meta])[0]

    return run
