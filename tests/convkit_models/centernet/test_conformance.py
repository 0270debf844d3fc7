"""The CenterNet adapter does all that convkit asks of an adapter."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from support.checkpoints import make_checkpoint

from convkit import Artifact, convert, load
from convkit.artifact import spec_from_manifest
from convkit.errors import InputError, SettingError
from convkit.evaluation import METRICS, POINT_METRICS, CocoFiles, evaluate_artifact, evaluate_artifacts
from convkit.processing import synthetic_scenes
from convkit.testing import AdapterConformance
from convkit_models.centernet.tasks.ddd import SpaceDecode

pytestmark = pytest.mark.slow


class TestDeformable(AdapterConformance):
    """A narrow resdcn_18 in all output forms; the DCNv2 plugin brings translation and rewrite."""

    adapter = "centernet"
    shapes = ("batch=1:1:2", "height=64:64:96", "width=64:96:96")

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, narrow_weights_file: Path) -> Path:
        return narrow_weights_file

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(
        cls, form: str, narrow_forms: Callable[[str], Artifact], tmp_path_factory: pytest.TempPathFactory
    ) -> Artifact:
        """Return a copy of what other tests run, too: the kit converts by itself for the other classes here."""
        return Artifact.open(shutil.copytree(narrow_forms(form).path, tmp_path_factory.mktemp("artifact") / form))


class TestPoses(AdapterConformance):
    """A narrow res_18 for poses, whose graph chooses people and their joints."""

    adapter = "centernet"
    shapes = ("batch=1:1:2", "height=64", "width=64")
    forms = ("detections",)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        heads = {"hm": 1, "wh": 2, "reg": 2, "hps": 34, "hm_hp": 17, "hp_offset": 2}
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "pose.pth", "res_18", heads=heads, width=0.1)

    def test_ap_of_key_points_is_that_of_the_form_heads_and_of_pycocotools(
        self, artifact: Artifact, weights: Path, tmp_path: Path
    ) -> None:
        """The annotated people are what the network finds in random scenes, moved by a few pixels."""
        pytest.importorskip("pycocotools")
        heads = convert(
            "centernet", weights=weights, output=tmp_path / "heads", form="heads", shape=self.shapes, samples=1
        ).artifact
        file, found = annotate_people(heads, tmp_path)
        report = evaluate_artifacts([artifact.path, heads.path], CocoFiles(file, tmp_path / "images"))
        np.testing.assert_allclose(
            [report.figures["heads"][name] for name in POINT_METRICS], judged(file, found, "keypoints"), atol=1e-12
        )
        assert 0.1 < report.figures["heads"]["AP"] < 0.9
        assert report.figures["detections"] == pytest.approx(report.figures["heads"], abs=1e-3)
        assert report.changes is not None
        assert report.changes.images == 0


class TestKeptResolution(AdapterConformance):
    """A narrow res_18 whose height and width vary with the image."""

    adapter = "centernet"
    shapes = ("batch=1:2:3", "height=32:64:128", "width=64:96:128")
    options: ClassVar = {"resize": "keep_res"}
    forms = ("heads",)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "res_18.pth", "res_18")

    @pytest.fixture(scope="class")
    @classmethod
    def raws(cls) -> list[np.ndarray]:
        """Return images that fit into the range without being resized."""
        return synthetic_scenes(4, height=60, width=90)


class TestSpace(AdapterConformance):
    """A narrow res_18 for boxes in space, in a small size of its own."""

    adapter = "centernet"
    shapes = ("height=32", "width=96")
    forms = ("heads",)

    @pytest.fixture(scope="class")
    @classmethod
    def weights(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        heads = {"hm": 3, "wh": 2, "reg": 2, "dep": 1, "rot": 8, "dim": 3}
        return make_checkpoint(tmp_path_factory.mktemp("weights") / "ddd.pth", "res_18", heads=heads, width=0.1)

    def test_ap_of_the_boxes_in_images_with_cameras_of_their_own(
        self, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("pycocotools")
        file, found = annotate_things(artifact, tmp_path)
        cameras: list[float] = []
        decode = SpaceDecode.__call__

        def spy(self: SpaceDecode, outputs: Any, metas: Any) -> Any:
            cameras.extend(meta["calibration"][0] for meta in metas)
            return decode(self, outputs, metas)

        monkeypatch.setattr(SpaceDecode, "__call__", spy)
        report = evaluate_artifact(artifact, file, tmp_path / "images")
        figures = report.figures["onnxruntime"]
        np.testing.assert_allclose([figures[name] for name in METRICS], judged(file, found, "bbox"), atol=1e-12)
        assert 0.1 < figures["AP"] < 0.9
        assert cameras[-3:] == [700.0, 701.0, 702.0]
        assert report.notes == ("boxes in space are judged by their boxes in the image",)
        document = json.loads(file.read_text())
        document["images"][1]["calib"][2].pop()
        file.write_text(json.dumps(document))
        with pytest.raises(InputError, match=r"1\.png: The calibration is no matrix of numbers"):
            evaluate_artifact(artifact, file, tmp_path / "images")
        del document["images"][1]["calib"]
        file.write_text(json.dumps(document))
        with pytest.raises(SettingError, match=r"1 of 3 images have no 'calib', the first is 1\.png"):
            evaluate_artifact(artifact, file, tmp_path / "images")


def annotate_people(artifact: Artifact, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Write scenes, of whose poses the best three count as people; return the file and all poses as COCO's results."""
    rng = np.random.default_rng(3)
    annotations, results = [], []
    for image_id, found in enumerate(scenes(artifact, folder), 1):
        results += found.to_coco(image_id)
        for box, points in zip(found.boxes[:3].tolist(), found.points[:3], strict=True):
            seen = np.column_stack([points + rng.normal(0, 3, points.shape), np.full(len(points), 2)])
            annotations.append(
                {**entry(box, image_id, 1, rng), "keypoints": seen.ravel().tolist(), "num_keypoints": 17}
            )
    return write(folder, annotations, [{"id": 1, "name": "person"}]), results


def annotate_things(artifact: Artifact, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Write scenes, of whose boxes the best five count; return the file and all boxes as COCO's results."""
    rng = np.random.default_rng(3)
    annotations, results = [], []
    for image_id, found in enumerate(scenes(artifact, folder), 1):
        rows = list(zip(found.boxes.tolist(), found.scores.tolist(), (found.class_ids + 1).tolist(), strict=True))
        for (x1, y1, x2, y2), score, label in rows:
            box = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": label, "bbox": box, "score": score})
        annotations += [entry(box, image_id, label, rng) for box, _, label in rows[:5]]
    names = spec_from_manifest(artifact.manifest).classes
    return write(folder, annotations, [{"id": index, "name": name} for index, name in enumerate(names, 1)]), results


def scenes(artifact: Artifact, folder: Path) -> list[Any]:
    """Write three random scenes and return the results of an artifact."""
    (folder / "images").mkdir()
    images = synthetic_scenes(3, height=72, width=160, seed=4)
    for index, image in enumerate(images):
        cv2.imwrite(str(folder / "images" / f"{index}.png"), image)
    with load(artifact.path) as predictor:
        return list(predictor(list(images)))


def entry(box: list[float], image_id: int, label: int, rng: np.random.Generator) -> dict[str, Any]:
    x1, y1, x2, y2 = (np.array(box) + rng.normal(0, 2, 4)).tolist()
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    return {"image_id": image_id, "category_id": label, "bbox": [x1, y1, width, height], "area": width * height}


def write(folder: Path, annotations: list[dict[str, Any]], categories: list[dict[str, Any]]) -> Path:
    """Write the annotations of the scenes, with cameras that differ."""
    cameras = [[[700 + index, 0, 80, 40], [0, 700, 36, 0], [0, 0, 1, 0]] for index in range(3)]
    images = [{"id": index + 1, "file_name": f"{index}.png", "calib": camera} for index, camera in enumerate(cameras)]
    for number, annotation in enumerate(annotations, 1):
        annotation |= {"id": number, "iscrowd": 0}
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def judged(file: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """Return pycocotools' figures of results."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(results), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return list(judge.stats)
