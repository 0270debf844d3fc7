"""Evaluations on a Ray cluster: the results of a single process, and nothing lost or doubled with a worker."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.blobs import write_coco
from support.plugins import write_distribution

from convkit.errors import EnvironmentProblem, ImageError
from convkit.evaluation import CocoFiles, EvaluationOptions, evaluate_artifacts
from convkit.evaluation._ray import _again, _Worker

IDS = {"green": 3, "red": 7}

MORTAL = """
import os, signal
from pathlib import Path
from support import blobs

class Mortal(blobs.Resize):
    def __call__(self, image):
        try:  # the first worker that comes to this kills itself, others find nothing
            Path(os.environ["MORTAL"]).unlink()
        except OSError:
            return super().__call__(image)
        os.kill(os.getpid(), signal.SIGKILL)

class MortalPlugin(blobs.BlobPlugin):
    @blobs.hookimpl
    def convkit_preprocess(self, spec):
        return Mortal(spec) if spec.get("kind") == "blobs.resize" else None

plugin = MortalPlugin()
"""


@pytest.fixture
def data(tmp_path: Path) -> CocoFiles:
    path = write_coco(tmp_path / "data", 12, categories=IDS, jitter=3)
    return CocoFiles(path, path.parent / "images")


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_and_doubles_nothing(
    blobs: Any,
    blob_artifact: Any,
    blob_weights_file: Path,
    data: CocoFiles,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Artifact and checkpoint, both with test-time augmentation."""
    pytest.importorskip("ray.data", reason="needs convkit[ray]", exc_type=ImportError)
    write_distribution(tmp_path / "site", "mortal", {"mortal": "mortal:plugin"}, {"mortal": MORTAL})
    paths = [str(tmp_path / "site"), *filter(None, map(os.path.abspath, sys.path))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("MORTAL", str(tmp_path / "alive"))
    (tmp_path / "alive").touch()
    options = EvaluationOptions(weights=blob_weights_file, augment={"darker": "0.4665"})
    expected = evaluate_artifacts([blob_artifact.path], data, options)
    state, steps = tmp_path / "state", []
    report = evaluate_artifacts(
        [blob_artifact.path],
        data,
        replace(options, ray="local", resume=state, batch=2),
        progress=lambda step, done=0, total=0: steps.append((step, done, total)),
    )
    assert not (tmp_path / "alive").exists()
    assert set(report.figures) == {"onnxruntime", "pytorch"}
    assert (report.figures, report.classes, report.images) == (expected.figures, expected.classes, 12)
    assert [done for step, done, _ in steps if step == "running images"][-1] == 12
    again = evaluate_artifacts([blob_artifact.path], data, replace(options, resume=state))
    assert (again.kept, again.figures) == (24, expected.figures)
    assert (
        evaluate_artifacts([blob_artifact.path], data, replace(options, resume=state, ray="local")).figures
        == expected.figures
    )


def batch(data: CocoFiles, *numbers: int) -> dict[str, np.ndarray]:
    images = json.loads(data.annotations.read_text())["images"]
    chosen = [images[number] for number in numbers]
    return {
        "id": np.array([entry["id"] for entry in chosen]),
        "file": np.array([str(data.images / entry["file_name"]) for entry in chosen], object),
        "height": np.array([entry["height"] for entry in chosen]),
        "width": np.array([0 for _ in chosen]),
        "fields": np.array(["{}" for _ in chosen], object),
        "engines": np.array(["a" for _ in chosen], object),
    }


def test_a_worker_returns_the_error_of_an_image(blobs: Any, blob_artifact: Any, data: CocoFiles) -> None:
    worker = _Worker({"a": blob_artifact.path}, EvaluationOptions())
    images = batch(data, 1, 2)
    images["width"][:] = 96
    found = worker(images)
    assert found["id"] == images["id"].tolist()
    assert found["engine"] == ["a", "a"]
    Path(images["file"][1]).write_bytes(b"")
    (document,) = worker(images)["document"]
    error = _again(json.loads(document))
    assert isinstance(error, ImageError)
    assert "00002.png is empty" in error.message
    assert error.hint


def test_without_ray_the_error_says_what_to_install(
    blobs: Any, blob_artifact: Any, data: CocoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentProblem, match="needs Ray Data") as caught:
        evaluate_artifacts([blob_artifact.path], data, EvaluationOptions(ray="local"))
    assert "convkit[ray]" in caught.value.hint
