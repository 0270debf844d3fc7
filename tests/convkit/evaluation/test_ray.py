"""Evaluations on a Ray cluster: the results of a single process, and nothing lost or doubled with a worker."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.blobs import write_coco
from support.plugins import write_distribution

from convkit.errors import ArtifactError, ConvkitError, EnvironmentProblem, ImageError
from convkit.evaluation import CocoFiles, EvaluationOptions, _ray_cluster, evaluate_artifacts
from convkit.evaluation._engines import engines_of
from convkit.evaluation._ray import _again, _Worker
from convkit.evaluation._ray_cluster import _check_listening, _check_member, reason
from convkit.runtime import load

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

SLOW = """
import time
from support import blobs

class Slow(blobs.Resize):
    def __call__(self, image):
        time.sleep(0.2)
        return super().__call__(image)

class SlowPlugin(blobs.BlobPlugin):
    @blobs.hookimpl
    def convkit_preprocess(self, spec):
        return Slow(spec) if spec.get("kind") == "blobs.resize" else None

plugin = SlowPlugin()
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
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Artifact and checkpoint, both with test-time augmentation."""
    pytest.importorskip("ray.data", reason="needs convkit[ray]", exc_type=ImportError)
    write_distribution(tmp_path / "site", "mortal", {"mortal": "mortal:plugin"}, {"mortal": MORTAL})
    paths = [str(tmp_path / "site"), *filter(None, map(os.path.abspath, sys.path))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # which is none of `local`
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
    assert capfd.readouterr().out == ""
    assert set(report.figures) == {"onnxruntime", "pytorch"}
    assert (report.figures, report.classes, report.images) == (expected.figures, expected.classes, 12)
    assert [done for step, done, _ in steps if step == "running images"][-1] == 12
    again = evaluate_artifacts([blob_artifact.path], data, replace(options, resume=state))
    assert (again.kept, again.figures) == (24, expected.figures)
    assert (
        evaluate_artifacts([blob_artifact.path], data, replace(options, resume=state, ray="local")).figures
        == expected.figures
    )


@pytest.mark.slow
def test_a_machine_that_is_lost_loses_and_doubles_nothing(
    blobs: Any,
    blob_artifact: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A cluster of two machines, one of which ends while it runs images."""
    pytest.importorskip("ray.data", reason="needs convkit[ray]", exc_type=ImportError)
    from ray.cluster_utils import Cluster

    write_distribution(tmp_path / "site", "slow", {"slow": "slow:plugin"}, {"slow": SLOW})
    paths = [str(tmp_path / "site"), *filter(None, map(os.path.abspath, sys.path))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    annotations = write_coco(tmp_path / "data", 60, categories=IDS, jitter=3)
    data = CocoFiles(annotations, annotations.parent / "images")
    expected = evaluate_artifacts([blob_artifact.path], data, EvaluationOptions(resume=tmp_path / "one"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machine = cluster.add_node(num_cpus=1)
    lost = []

    def lose(step: str, done: int = 0, total: int = 0) -> None:
        if step == "running images" and done >= 10 and not lost:
            lost.append(done)
            cluster.remove_node(machine, allow_graceful=False)

    try:
        options = EvaluationOptions(ray=cluster.address, resume=tmp_path / "two")
        report = evaluate_artifacts([blob_artifact.path], data, options, progress=lose)
    finally:
        cluster.shutdown()
    assert lost
    assert lost[0] < 60
    assert (report.figures, report.classes, report.images) == (expected.figures, expected.classes, 60)
    assert results(tmp_path / "one") == results(tmp_path / "two")
    assert capfd.readouterr().out == ""


def results(state: Path) -> list[Any]:
    with closing(sqlite3.connect(state)) as base:
        return base.execute("SELECT * FROM results ORDER BY engine, image").fetchall()


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
    worker = _Worker({"a": blob_artifact.path}, EvaluationOptions(), {})
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
    assert error.message.startswith(f"On {socket.gethostname()}: ")
    assert "at the same paths" in error.hint
    Path(images["file"][1]).unlink()
    assert "00002.png" in error_of(worker, images, ImageError).message


def error_of(worker: _Worker, images: Any, kind: type[ConvkitError]) -> ConvkitError:
    (document,) = worker(images)["document"]
    error = _again(json.loads(document))
    assert isinstance(error, kind)
    return error


def test_a_worker_without_the_artifact_returns_that_for_every_batch(
    blobs: Any, data: CocoFiles, tmp_path: Path
) -> None:
    worker = _Worker({"a": tmp_path / "nowhere"}, EvaluationOptions(), {})
    for _ in range(2):
        error = error_of(worker, batch(data, 1), ArtifactError)
        assert str(tmp_path / "nowhere") in error.message
        assert "at the same paths" in error.hint


def test_a_worker_with_another_artifact_or_version_runs_nothing(
    blobs: Any, blob_artifact: Any, data: CocoFiles
) -> None:
    with load(blob_artifact.path) as predictor:
        facts = dict(engines_of({"a": predictor}, None)["a"].facts)
    images = batch(data, 1) | {"width": np.array([96])}
    assert _Worker({"a": blob_artifact.path}, EvaluationOptions(), {"a": facts})(images)["id"] == images["id"].tolist()
    worker = _Worker({"a": blob_artifact.path}, EvaluationOptions(), {"a": facts | {"convkit": "9.9"}})
    error = error_of(worker, images, EnvironmentProblem)
    assert "convkit 0.1.0 instead of 9.9" in error.message
    assert "same packages" in error.hint
    machine = {"version": facts["machine"]["version"], "gpu": "H100"}
    worker = _Worker({"a": blob_artifact.path}, EvaluationOptions(), {"a": facts | {"machine": machine}})
    error = error_of(worker, images, EnvironmentProblem)
    assert error.message.endswith("evaluation was started: machine gpu none instead of H100.")


def test_an_address_at_which_nobody_listens_is_refused_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        _check_listening(address)
    for nowhere in (address, "127.0.0.1:99999", "no-such-host.invalid:6379"):
        started = time.monotonic()
        with pytest.raises(EnvironmentProblem, match=nowhere) as caught:
            _check_listening(nowhere)
        assert "HOST:PORT" in caught.value.hint
        assert time.monotonic() - started < 30
    for others in ("local", "auto", "nonsense"):
        _check_listening(others)
    with pytest.raises(EnvironmentProblem, match="Ray Client"):
        _check_listening("ray://127.0.0.1:10001")


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", "not one of the cluster"),
        ("import time; time.sleep(60)", "within 1 seconds"),
        ("import os; os._exit(1)", "not one of the cluster"),
        ("import sys; assert sys.argv[1] == 'here'", ""),
    ],
)
def test_a_process_that_ray_ends_or_that_waits_is_an_error(
    monkeypatch: pytest.MonkeyPatch, trial: str, said: str
) -> None:
    monkeypatch.setattr(_ray_cluster, "_TRIAL", trial)
    monkeypatch.setattr(_ray_cluster, "ANSWERING", 1 if "within" in said else 60)
    with pytest.raises(EnvironmentProblem, match=said) if said else nullcontext():
        _check_member("here")


def test_of_an_error_of_ray_the_line_of_the_cause_is_told() -> None:
    text = "Traceback:\n  File x\nModuleNotFoundError: No module named 'convkit'\nTo change retry attempts, do this."
    assert reason(RuntimeError(text)) == "ModuleNotFoundError: No module named 'convkit'"
    assert reason(RuntimeError("one\ntwo ")) == "two"
    assert reason(RuntimeError()) == "RuntimeError"


def test_without_ray_the_error_says_what_to_install(
    blobs: Any, blob_artifact: Any, data: CocoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentProblem, match="needs Ray Data") as caught:
        evaluate_artifacts([blob_artifact.path], data, EvaluationOptions(ray="local"))
    assert "convkit[ray]" in caught.value.hint
