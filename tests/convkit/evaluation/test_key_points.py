"""Figures of poses: those of pycocotools, and what annotations of key points must have."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from convkit.errors import ConversionError, SettingError
from convkit.evaluation import METRICS, POINT_METRICS, EvaluationReport, evaluate_engines
from convkit.results import COCO_JOINTS, Classification, Detections, Poses, Result

COCO = pytest.importorskip("pycocotools.coco").COCO
COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
IMAGES, MANY = 6, 26
"""More poses in an image than the 20 that COCO judges."""


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Write empty images, each with annotations of three people and a crowd."""
    rng = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for index in range(IMAGES):
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), np.zeros((240, 320, 3), np.uint8))
        images.append({"id": index + 1, "file_name": f"{index}.png", "height": 240, "width": 320})
        for person in range(4):
            x, y, width, height = 10 + 75 * person, rng.integers(5, 90), rng.integers(30, 70), rng.integers(60, 140)
            seen = rng.integers(0, 3, 17)
            points = np.stack([x + width * rng.random(17), y + height * rng.random(17), seen], axis=1)
            crowd = person == 3
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": 1,
                    "bbox": [int(x), int(y), int(width), int(height)],
                    "area": float(0.6 * width * height),
                    "iscrowd": int(crowd),
                    "keypoints": [0] * 51 if crowd else [round(float(value), 1) for value in points.ravel()],
                    "num_keypoints": 0 if crowd else int((seen > 0).sum()),
                }
            )
    category = {"id": 1, "name": "person", "keypoints": [name.replace(" ", "_") for name in COCO_JOINTS]}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": [category]}))
    return path


def guesses(path: Path, joints: int = 17) -> dict[int, Poses]:
    """Return poses near the annotated ones by image id, and many that are wrong, the scores in no order."""
    rng = np.random.default_rng(2)
    found = {}
    for image in json.loads(path.read_text())["images"]:
        boxes, points = [], []
        for entry in json.loads(path.read_text())["annotations"]:
            if entry["image_id"] == image["id"]:
                x, y, width, height = entry["bbox"]
                boxes.append([x, y, x + width, y + height])
                points.append(np.reshape(entry["keypoints"], (-1, 3))[:joints, :2] + rng.normal(0, 2, (joints, 2)))
        boxes += (rng.random((MANY - 4, 4)) * 100 + [0, 0, 100, 100]).tolist()
        points += list(rng.random((MANY - 4, joints, 2)) * 200)
        scores = np.concatenate([rng.uniform(0.5, 1, 4), rng.uniform(0, 0.8, MANY - 4)])
        names = COCO_JOINTS if joints == 17 else tuple(f"joint {index}" for index in range(joints))
        found[image["id"]] = Poses(
            np.array(boxes, np.float32), scores.astype(np.float32), np.array(points, np.float32), names, ()
        )
    return found


def evaluate(path: Path, poses: dict[int, Poses]) -> EvaluationReport:
    engine = {"guess": lambda file: poses[int(Path(file).stem) + 1]}
    return evaluate_engines(engine, ("person",), path, path.parent / "images")


def by_hand(path: Path, poses: dict[int, Poses], kind: str) -> list[float]:
    """Write the results file that COCO asks for and let pycocotools judge it."""
    results = [entry for image, found in poses.items() for entry in found.to_coco(image)]
    (path.parent / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        judge = COCOeval(truth, truth.loadRes(str(path.parent / "results.json")), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats.tolist()


def test_figures_of_points_and_boxes_equal_a_hand_made_evaluation(people):
    poses = guesses(people)
    report = evaluate(people, poses)
    figures = report.figures["guess"]
    assert list(figures) == [*POINT_METRICS, *(f"box {name}" for name in METRICS)]
    expected = [*by_hand(people, poses, "keypoints"), *by_hand(people, poses, "bbox")]
    np.testing.assert_allclose(list(figures.values()), expected, rtol=0, atol=1e-12)
    assert 0.1 < figures["AP"] < 0.9
    assert report.classes["guess"]["person"]["AP"] == pytest.approx(figures["AP"], abs=1e-12)
    assert report.classes["guess"]["person"]["AP50"] == pytest.approx(figures["AP50"], abs=1e-12)
    assert report.notes == ()


def test_images_without_poses_count(people):
    poses = guesses(people)
    poses[2] = poses[2].above(2)
    assert len(poses[2]) == 0
    figures = evaluate(people, poses).figures["guess"]
    np.testing.assert_allclose(list(figures.values())[:10], by_hand(people, poses, "keypoints"), rtol=0, atol=1e-12)


def test_annotations_without_points_are_ignored_with_a_note(people):
    poses = guesses(people)
    document = json.loads(people.read_text())
    for entry in document["annotations"][::4]:
        del entry["keypoints"], entry["num_keypoints"]
    people.write_text(json.dumps(document))
    report = evaluate(people, poses)
    assert "6 annotations have no keypoints" in report.notes[0]
    for entry in document["annotations"][::4]:
        entry.update(keypoints=[0] * 51, num_keypoints=0)
    people.write_text(json.dumps(document))
    expected = by_hand(people, poses, "keypoints")
    np.testing.assert_allclose(list(report.figures["guess"].values())[:10], expected, rtol=0, atol=1e-12)


def test_joints_of_another_number_need_constants_of_their_own(people):
    document = json.loads(people.read_text())
    del document["categories"][0]["keypoints"]
    for entry in document["annotations"]:
        entry["keypoints"] = entry["keypoints"][:15]
    people.write_text(json.dumps(document))
    poses = guesses(people, joints=5)
    with pytest.raises(SettingError, match="how exact each of the 5 joints") as caught:
        evaluate(people, poses)
    assert '"sigmas"' in caught.value.hint
    aps = []
    for sigma in (0.02, 0.2):
        document["categories"][0]["sigmas"] = [sigma] * 5
        people.write_text(json.dumps(document))
        aps.append(evaluate(people, poses).figures["guess"]["AP"])
    assert 0 < aps[0] < aps[1]


def every(field: str, value: object):
    def edit(document: dict) -> None:
        for entry in document["annotations"]:
            entry[field] = value

    return edit


def without(document: dict) -> None:
    for entry in document["annotations"]:
        del entry["keypoints"]


def swapped(document: dict) -> None:
    names = document["categories"][0]["keypoints"]
    names[1], names[2] = names[2], names[1]


def sigmas(document: dict) -> None:
    document["categories"][0]["sigmas"] = [0.1] * 16


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without, "no annotations with keypoints"),
        (every("keypoints", [1, 2, 2] * 16), "are 48 values, not 51"),
        (every("keypoints", "many"), "are 'many', not 51"),
        (every("keypoints", [1, 2, 3] * 17), "visibility"),
        (every("keypoints", [1, None, 2] * 17), "no numbers"),
        (swapped, "in another order"),
        (sigmas, "sigmas"),
    ],
)
def test_annotations_that_would_falsify_figures_are_refused(people, edit, message):
    poses = guesses(people)
    document = json.loads(people.read_text())
    edit(document)
    people.write_text(json.dumps(document))
    with pytest.raises(SettingError, match=message) as caught:
        evaluate(people, poses)
    assert caught.value.hint


def test_results_of_other_or_several_kinds_are_refused(people):
    poses = guesses(people)
    boxes = {key: Detections(found.boxes, found.scores, np.zeros(len(found), int)) for key, found in poses.items()}
    mixed: dict[int, Result] = {**poses, 3: boxes[3]}
    for found, message in (
        ({key: Classification(np.zeros(2), ("a", "b")) for key in poses}, "does not detect boxes or poses"),
        (mixed, "not all of one kind"),
    ):
        with pytest.raises(ConversionError, match=message):
            evaluate(people, found)
    engines = {"points": lambda file: poses[1], "boxes": lambda file: boxes[1]}
    with pytest.raises(ConversionError, match="different kinds"):
        evaluate_engines(engines, ("person",), people, people.parent / "images")
