"""Average precision of an artifact on a COCO-format data set, streamed image by image."""

from __future__ import annotations

import contextlib
import io
import json
import math
import reprlib
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit._text import read_text
from convkit.artifact import Artifact
from convkit.errors import ConversionError, EnvironmentProblem, ImageError, SettingError
from convkit.files import sha256
from convkit.progress import Progress, silent
from convkit.results import Detections, Result

if TYPE_CHECKING:
    from convkit.runtime import Predictor

__all__ = ["METRICS", "EvaluationReport", "evaluate_artifact", "evaluate_engines"]

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
    progress: Progress = silent,
) -> EvaluationReport:
    """Return the COCO figures of an artifact, and of its checkpoint in PyTorch where ``weights`` is given.

    Images are read, run and dropped one at a time; of each detection 56 bytes are kept. ``backend``, ``device`` and
    ``unproved`` are those of `load`.

    Raises:
        SettingError: the annotations are no COCO file or do not fit the classes.
        EnvironmentProblem: pycocotools is missing.
        ValidationError: no proof covers the backend on this device.
    """
    from convkit.runtime import load

    with load(artifact, backend=backend, device=device, unproved=unproved) as predictor:
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
    truth, image_table, annotations = _read_annotations(coco)
    ids = sorted(image_table)[:limit]
    categories, note = _category_ids(truth.dataset["categories"], tuple(classes))
    rows: dict[str, array[float]] = {name: array("d") for name in engines}
    for number, image_id in enumerate(ids):
        progress("running images", number, len(ids))
        file = _image_file(images, image_table[image_id])
        for name, engine in engines.items():
            rows[name].extend(_rows(engine(file), image_id, categories))
    progress("computing AP")
    figures = {name: _coco_figures(truth, values, ids) for name, values in rows.items()}
    return EvaluationReport(figures, len(ids), annotations, time.perf_counter() - started, (note,) if note else ())


def _read_annotations(path: Path) -> tuple[Any, dict[int, str], int]:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise EnvironmentProblem(
            "convkit evaluate needs pycocotools.", hint='pip install "convkit[evaluate]"'
        ) from error
    try:
        document = json.loads(read_text(path))
        if not document["categories"] or not document["images"]:
            raise KeyError("images or categories are empty")
        _check_ids(path, document)
        table = {image["id"]: str(image["file_name"]) for image in document["images"]}
        count = len(document["annotations"])
        for annotation in document["annotations"]:
            _complete(annotation)
        if not all({"id", "name"} <= category.keys() for category in document["categories"]):
            raise KeyError("a category has no id or no name")
        truth = COCO()
        truth.dataset = document
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}.", hint="Check --coco.") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(
            f"{path} is not a COCO annotation file: {error}.",
            hint="It needs the lists images, annotations (with bbox) and categories.",
        ) from error
    return truth, table, count


def _check_ids(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse ids with which the figures would be wrong without a word.

    Raises:
        SettingError: an id is not a whole number or occurs twice, or one refers to nothing.
    """
    known: dict[str, set[int]] = {}
    for kind, name in (("images", "image"), ("categories", "category"), ("annotations", "annotation")):
        known[name] = set()
        for entry in document[kind]:
            number = _whole(path, f"the id of an entry of {kind}", entry["id"])
            if number in known[name]:
                raise SettingError(
                    f"{path}: two entries of {kind} have the id {number}.", hint="Number them, each with its own id."
                )
            known[name].add(number)
    if 0 in known["annotation"]:
        raise SettingError(
            f"{path}: an annotation has the id 0, which COCO's evaluation takes for no annotation.",
            hint="Number the annotations from 1.",
        )
    images = {_whole(path, "the image_id of an annotation", entry["image_id"]) for entry in document["annotations"]}
    if images and not images & known["image"]:
        raise SettingError(
            f"{path}: no annotation has the image_id of a listed image.",
            hint="Are the images and the annotations numbered alike?",
        )
    for entry in document["annotations"]:
        number = _whole(path, "the category_id of an annotation", entry["category_id"])
        if number not in known["category"]:
            raise SettingError(
                f"{path}: annotation {entry['id']} has the category_id {number}, which no category has.",
                hint="Add the category, or remove the annotations of it.",
            )


def _complete(annotation: dict[str, Any]) -> None:
    """Give an annotation the crowd flag and the area that it lacks or has as null; the area is that of its box.

    Raises:
        ValueError: they or the box are no numbers.
    """
    area, crowd, box = annotation.get("area"), annotation.get("iscrowd"), annotation["bbox"]
    if len(box) != 4:
        raise ValueError(f"the bbox of annotation {annotation['id']} is {reprlib.repr(box)}")
    annotation["area"] = area = box[2] * box[3] if area is None else area
    annotation["iscrowd"] = crowd = 0 if crowd is None else crowd
    for name, value in (("bbox", box), ("area", [area])):
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in value):
            raise ValueError(f"the {name} of annotation {annotation['id']} is {reprlib.repr(annotation[name])}")
    if crowd not in (0, 1):
        raise ValueError(f"iscrowd of annotation {annotation['id']} is {reprlib.repr(crowd)}")


def _whole(path: Path, place: str, value: Any) -> int:
    """Return an id that is a whole number and that float64, in which pycocotools holds it, represents exactly."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**53:
        raise SettingError(
            f"{path}: {place} is {reprlib.repr(value)}, not a whole number up to 2^53.",
            hint="Write ids as JSON numbers, for example 17, in every list.",
        )
    return value


def _category_ids(categories: list[dict[str, Any]], classes: tuple[str, ...]) -> tuple[list[int], str]:
    """Return the category id of every class, and a note where they were not found by name.

    Names that differ in case or in spaces around them are the same unless that is ambiguous. Where no name fits, the
    classes are the categories in the order of their ids.

    Raises:
        SettingError: two categories have the name of a class, some names fit and others do not, or the numbers differ.
    """
    fitting: list[list[int]] = []
    for plain in (str, _folded):
        by_name: dict[str, list[int]] = {}
        for category in categories:
            by_name.setdefault(plain(str(category["name"])), []).append(category["id"])
        fitting = [by_name.get(plain(name), []) for name in classes]
        if all(len(ids) == 1 for ids in fitting) and len(set(map(plain, classes))) == len(classes):
            return [ids[0] for ids in fitting], ""
    for name, ids in zip(classes, fitting, strict=True):
        if len(ids) > 1:
            raise SettingError(
                f"The categories {', '.join(map(str, ids))} of the annotations have the name of the class {name!r}.",
                hint="Give every category a name of its own.",
            )
    if len(categories) != len(classes):
        raise SettingError(
            f"The artifact has {len(classes)} classes, the annotations have {len(categories)} categories.",
            hint="Convert with --names so that the class names are those of the annotations.",
        )
    if any(fitting) and not all(fitting):
        missing = [name for name, ids in zip(classes, fitting, strict=True) if not ids]
        raise SettingError(
            f"The annotations have no category of the class {', '.join(map(repr, missing))}.",
            hint="Convert with --names so that the class names are those of the annotations.",
        )
    note = "categories and classes have other names, so the classes are the categories in the order of their ids"
    return sorted(category["id"] for category in categories), note


def _folded(name: str) -> str:
    return name.strip().casefold()


def _image_file(folder: Path, name: str) -> Path:
    file = folder / name
    try:
        there = file.is_file()
    except OSError:  # a name that is too long
        there = False
    if not there:
        raise ImageError(f"The image {file} is missing.", hint="Check --images; names come from the annotations.")
    return file


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
