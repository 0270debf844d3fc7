"""Figures of artifacts on a data set, image by image."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.errors import ConversionError, SettingError
from convkit.evaluation._annotations import read_annotations
from convkit.evaluation._categories import category_ids
from convkit.evaluation._changes import Changes, changes_between
from convkit.evaluation._data_sets import CocoFiles, DataSet
from convkit.evaluation._engines import Engine, engines_of, plain_engine
from convkit.evaluation._flow import Image, Read, reading, run_images
from convkit.evaluation._image_files import find_images
from convkit.evaluation._options import DEFAULTS, EvaluationOptions
from convkit.evaluation._report import PYTORCH, EvaluationReport
from convkit.evaluation._scheme import Scheme
from convkit.evaluation._store import Store
from convkit.progress import Progress, silent
from convkit.results import Result

if TYPE_CHECKING:
    from convkit.processing import Reader
    from convkit.runtime import Predictor

__all__ = ["check_data", "evaluate_artifact", "evaluate_artifacts", "evaluate_engines"]


def evaluate_artifact(
    artifact: Path | str,
    coco: Path,
    images: Path,
    options: EvaluationOptions = DEFAULTS,
    *,
    progress: Progress = silent,
) -> EvaluationReport:
    """Return COCO's figures of one artifact; see `evaluate_artifacts`."""
    return evaluate_artifacts([artifact], CocoFiles(coco, images), options, progress=progress)


def evaluate_artifacts(
    artifacts: Sequence[Path | str],
    data: DataSet,
    options: EvaluationOptions = DEFAULTS,
    *,
    draw: Callable[[str, np.ndarray], None] | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """Return the figures of artifacts on a data set, and with ``weights`` of the first one's checkpoint in PyTorch.

    Each image is read once, for all of them, ahead of the engines, and dropped; of a box 48 bytes are kept. Poses are
    judged by their key points and by their boxes. The report names a single artifact by its backend, several by their
    folders; of the first two it has what one found with at least ``score`` and the other did not, and ``draw`` gets the
    name of the file of every such image and both results drawn beside each other.

    Raises:
        SettingError: the annotations are none of the data set, or do not fit the classes or joints, an image has
            another size than declared or lacks a field that others have, ``resume`` is some other file, or ``weights``
            are another checkpoint.
        ImageError: an image is missing or cannot be read; results until then are in ``resume``.
        InputError: a field of an image, such as the calibration of its camera, is not what it should be.
        ConversionError: an artifact has no boxes and no poses as results.
        EnvironmentProblem: pycocotools or Ray is missing, or there is no such cluster.
        ValidationError: no proof covers the backend on this device.
        IntegrityError: an artifact is not what was proved, or what was signed.
    """
    from convkit.runtime import load

    with ExitStack() as stack:
        predictors = [stack.enter_context(load(artifact, **options.loading)) for artifact in artifacts]
        names = _names(predictors, () if options.weights is None else (PYTORCH,))
        folders = {name: each.artifact.path.resolve() for name, each in zip(names, predictors, strict=True)}
        engines = engines_of(dict(zip(names, predictors, strict=True)), options.weights)
        reader = predictors[0].reader
        task = _Task(engines, data, options.limit, reader)
        store = stack.enter_context(Store(options.resume))
        if options.ray is None:
            runner = partial(run_images, read=reading(reader))
        else:
            from convkit.evaluation._ray import run_on_ray

            runner = partial(run_on_ray, folders, options)
        report = task.run(store, runner, options.batch, progress)
        if len(predictors) > 1:
            progress("comparing results")
            report = replace(report, changes=task.changes(store, names[:2], options.score, draw))
    notes = dict.fromkeys(each.coverage.note for each in predictors if each.coverage.note)
    reasons = dict.fromkeys(each.unproved for each in predictors if each.unproved)
    return replace(report, notes=(*report.notes, *notes), unproved="; ".join(reasons))


def evaluate_engines(
    engines: Mapping[str, Callable[[Any], Result]],
    classes: Sequence[str],
    coco: Path,
    images: Path,
    *,
    reader: Reader | None = None,
    progress: Progress = silent,
) -> EvaluationReport:
    """Return the COCO figures of anything that makes detections or poses of an image, by name.

    ``classes`` are the names that the class numbers of the detections stand for. What the ``reader`` makes of a file
    and its fields is an image; without one it is the path of the file.

    Raises:
        SettingError: the annotations are no COCO file or do not fit the classes or joints.
        EnvironmentProblem: pycocotools is missing.
    """
    plain = {name: plain_engine(name, function, classes) for name, function in engines.items()}
    with Store() as store:
        read: Read = reading(reader) if reader else lambda image: image.file
        task = _Task(plain, CocoFiles(coco, images), None, reader)
        return task.run(store, partial(run_images, read=read), 1, progress)


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


class _Task:
    """Engines and a data set that fit each other."""

    def __init__(
        self, engines: Mapping[str, Engine], source: DataSet, limit: int | None, reader: Reader | None
    ) -> None:
        self.started = time.perf_counter()
        self.engines, self.source = engines, source
        self.data = source.read(sorted({name for engine in engines.values() for name in engine.classes}))
        ids = sorted(self.data.names)[:limit]
        files = find_images(source.image_folder, {image_id: self.data.names[image_id] for image_id in ids})
        self.notes = list(self.data.notes)
        fields = self._fields(ids, reader.companions if reader else ())
        self.images = [
            Image(image_id, files[image_id], self.data.sizes.get(image_id), fields.get(image_id, {}))
            for image_id in ids
        ]
        self.categories: dict[str, np.ndarray] = {}
        for name, engine in engines.items():
            found, notes = category_ids(self.data, tuple(engine.classes))
            self.categories[name] = np.array(found, np.int64)
            self.notes += [note for note in notes if note not in self.notes]
        self.names = {entry["id"]: str(entry["name"]) for entry in self.data.truth.dataset["categories"]}
        self.schemes: dict[str, Scheme] = {}
        self.sigmas: tuple[float, ...] = ()

    def _fields(self, ids: Sequence[int], names: Sequence[str]) -> Mapping[int, Mapping[str, Any]]:
        """Return the fields of images that the model reads, which all images have or none.

        Raises:
            SettingError: only some have one.
        """
        fields = self.source.fields(names)
        for name in names:
            without = [image_id for image_id in ids if name not in fields.get(image_id, {})]
            if len(without) == len(ids):
                self.notes.append(f"the annotations have no {name!r} of the images; that of the artifact is taken")
            elif without:
                raise SettingError(
                    f"{len(without)} of {len(ids)} images have no {name!r}, the first is"
                    f" {self.data.names[without[0]]}.",
                    hint="Give it to every image, or to none: those without would be judged with another one.",
                )
        return fields

    def run(
        self, store: Store, runner: Callable[..., tuple[float, int]], batch: int, progress: Progress
    ) -> EvaluationReport:
        """Return the report of all engines; ``runner`` is `run_images`, or what does the same elsewhere."""
        spent, kept = runner(self.engines, self.images, store, batch=batch, progress=progress, check=self._check)
        progress("computing AP")
        figures, classes = {}, {}
        ids = [image.id for image in self.images]
        known = set(ids)
        for name in self.engines:
            figures[name], classes[name] = self.source.figures(self.data, self._table(store, name), ids, self.sigmas)
        return EvaluationReport(
            figures,
            len(self.images),
            sum(entry["image_id"] in known for entry in self.data.truth.dataset["annotations"]),
            time.perf_counter() - self.started,
            tuple(self.notes),
            classes=classes,
            kept=kept,
            engine_seconds=spent,
        )

    def changes(
        self, store: Store, names: Sequence[str], score: float, draw: Callable[[str, np.ndarray], None] | None
    ) -> Changes:
        """Return what differs between the results of two engines."""
        known = sorted(self.names)

        def result(name: str, image: Image) -> Any:
            rows = store.rows(self.engines[name].key, image.id).copy()
            rows[:, 5] = np.searchsorted(known, self.categories[name][rows[:, 5].astype(np.int64)])
            return self.schemes[name].result(rows, [self.names[category] for category in known])

        both = (({name: result(name, image) for name in names}, image) for image in self.images)
        return changes_between(both, names, score, draw)

    def _check(self, name: str, scheme: Scheme) -> None:
        """Check that the annotations have what results of this layout are judged by."""
        if self.schemes and scheme not in self.schemes.values():
            raise ConversionError(
                "The engines have results of different kinds.", hint="Evaluate boxes and poses one after the other."
            )
        if scheme.joints and not self.schemes:
            self.sigmas, notes = self.source.complete_points(self.data, scheme.joints)
            self.notes += notes
        if scheme.in_space and not self.schemes:
            self.notes.append("boxes in space are judged by their boxes in the image")
        self.schemes[name] = scheme

    def _table(self, store: Store, name: str) -> np.ndarray:
        """Return all rows of an engine as float64 [N, 1 + columns]: image id, and categories in place of classes."""
        key, categories = self.engines[name].key, self.categories[name]
        parts = []
        for image in self.images:
            rows = store.rows(key, image.id)
            parts.append(np.insert(rows, 0, image.id, axis=1))
        table = np.concatenate(parts)
        classes = table[:, 6].astype(np.int64)
        if ((classes < 0) | (classes >= len(categories))).any():
            raise SettingError(
                f"Results of {name} have classes beyond its {len(categories)}.", hint="Give another --resume file."
            )
        table[:, 6] = categories[classes]
        return table


def _names(predictors: Sequence[Predictor], taken: Sequence[str]) -> list[str]:
    """Return a name for each: of one its backend, of several their folders, with a number where it is ``taken``."""
    names = list(taken)
    for predictor in predictors:
        name = own = predictor.artifact.path.resolve().name if len(predictors) > 1 else predictor.backend
        while name in names:
            name = f"{own} ({names.count(own) + 1 + sum(each.startswith(f'{own} (') for each in names)})"
        names.append(name)
    return names[len(taken) :]
