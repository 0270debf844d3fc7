"""Two artifacts in one pass: the difference of the figures, and what only one of them finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.blobs import write_coco

from convkit import load
from convkit.evaluation import CocoFiles, EvaluationOptions, evaluate_artifact, evaluate_artifacts
from convkit.processing import read_image

IDS = {"green": 3, "red": 7}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data"), 10, categories=IDS, jitter=2)


def missed(first, second, data: Path) -> dict[str, tuple[int, int]]:
    """Return the number of boxes that only either artifact has, by file; boxes of the two are equal or far apart."""
    found = {}
    with load(first) as one, load(second) as other:
        for file in sorted((data.parent / "images").iterdir()):
            a, b = (
                {
                    (*np.round(box).tolist(), int(label))
                    for box, label in zip(result.boxes, result.class_ids, strict=True)
                }
                for result in (one(file), other(file))
            )
            found[file.name] = (len(a - b), len(b - a))
    return found


def test_changes_are_those_found_by_hand(blobs, blob_artifact, other_blobs, data):
    drawn = {}
    report = evaluate_artifacts(
        [blob_artifact.path, other_blobs.path],
        CocoFiles(data, data.parent / "images"),
        EvaluationOptions(batch=3),
        draw=lambda name, image: drawn.setdefault(name, image),
    )
    expected = missed(blob_artifact.path, other_blobs.path, data)
    changed = {name for name, counts in expected.items() if any(counts)}
    assert 0 < len(changed) < 10
    assert report.changes is not None
    assert report.changes.only == {
        "blobs": sum(counts[0] for counts in expected.values()),
        "other": sum(counts[1] for counts in expected.values()),
    }
    assert {change.file.name: change.count for change in report.changes.worst} == {
        name: sum(counts) for name, counts in expected.items() if any(counts)
    }
    assert set(drawn) == changed
    for name, image in drawn.items():
        raw = read_image(data.parent / "images" / name)
        assert image.shape == (raw.shape[0], 2 * raw.shape[1], 3)
        magenta = (image == (255, 0, 255)).all(-1)
        assert magenta[:, : raw.shape[1]].any() or magenta[:, raw.shape[1] :].any()


def test_figures_in_one_pass_are_those_of_each_alone(blobs, blob_artifact, other_blobs, data):
    images = data.parent / "images"
    report = evaluate_artifacts([blob_artifact.path, other_blobs.path], CocoFiles(data, images))
    assert report.figures["blobs"] == evaluate_artifact(blob_artifact.path, data, images).figures["onnxruntime"]
    assert report.figures["other"] == evaluate_artifact(other_blobs.path, data, images).figures["onnxruntime"]
    assert report.drop == report.figures["blobs"]["AP"] - report.figures["other"]["AP"] > 0
    assert report.to_json()["differences"]["other"]["AP"] == -report.drop


def test_an_artifact_beside_itself_differs_in_nothing(blobs, blob_artifact, data):
    report = evaluate_artifacts(
        [blob_artifact.path] * 2, CocoFiles(data, data.parent / "images"), EvaluationOptions(limit=3)
    )
    assert list(report.figures) == ["blobs", "blobs (2)"]
    assert report.changes is not None
    assert (report.changes.images, report.drop) == (0, 0)
