"""Evaluations that go on where an earlier one ended, however that ended."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.blobs import draw_blobs, write_coco

from convkit.errors import EnvironmentProblem, ImageError, OutputError, SettingError
from convkit.evaluation import EvaluationOptions, EvaluationReport, evaluate_artifact
from convkit.evaluation._scheme import Scheme
from convkit.evaluation._store import Store

IDS = {"green": 3, "red": 7}
COUNT = 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "data", COUNT, categories=IDS, jitter=3)


def evaluate(artifact, data: Path, **options) -> EvaluationReport:
    return evaluate_artifact(artifact, data, data.parent / "images", EvaluationOptions(**options))


def test_an_unreadable_image_loses_nothing_of_what_was_found_before(blobs, blob_artifact, data, tmp_path):
    expected = evaluate(blob_artifact, data)
    broken, state = data.parent / "images" / "00005.png", tmp_path / "state"
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    with pytest.raises(ImageError, match=r"00005\.png"):
        evaluate(blob_artifact, data, resume=state)
    broken.write_bytes(good)
    report = evaluate(blob_artifact, data, resume=state)
    assert report.kept == 5
    assert (report.figures, report.classes) == (expected.figures, expected.classes)
    again = evaluate(blob_artifact, data, resume=state)
    assert (again.kept, again.engine_seconds) == (COUNT, 0)
    assert again.figures == expected.figures


def test_an_image_that_was_replaced_is_run_again(blobs, blob_artifact, data, tmp_path):
    evaluate(blob_artifact, data, resume=tmp_path / "state")
    cv2.imwrite(str(data.parent / "images" / "00002.png"), draw_blobs(99)[0])
    report = evaluate(blob_artifact, data, resume=tmp_path / "state")
    assert report.kept == COUNT - 1
    assert report.figures == evaluate(blob_artifact, data).figures


def test_results_of_another_artifact_are_not_taken(blobs, blob_artifact, other_blobs, data, tmp_path):
    evaluate(blob_artifact, data, resume=tmp_path / "state")
    report = evaluate(other_blobs, data, resume=tmp_path / "state")
    assert report.kept == 0
    assert report.figures == evaluate(other_blobs, data).figures
    copy = tmp_path / "copy"
    shutil.copytree(blob_artifact.path, copy)
    assert evaluate(copy, data, resume=tmp_path / "state").kept == COUNT


def test_a_file_that_is_something_else_stays_as_it_is(blobs, blob_artifact, data, tmp_path):
    import sqlite3

    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE precious(x)")
    other.commit()
    other.close()
    evaluate(blob_artifact, data, resume=tmp_path / "state")
    torn = bytearray((tmp_path / "state").read_bytes())
    torn[100:] = bytes(len(torn) - 100)
    (tmp_path / "torn").write_bytes(torn)
    (tmp_path / "text").write_text("dear diary")
    for name in ("other.db", "torn", "text"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(SettingError, match="not a file from which an evaluation can go on"):
            evaluate(blob_artifact, data, resume=tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(OutputError, match="cannot be"):
        evaluate(blob_artifact, data, resume=tmp_path / "nowhere" / "state")


def test_a_full_disk_is_a_problem_of_the_environment_and_keeps_what_was_written(tmp_path):
    rows = np.ones((100, 6))
    with Store(tmp_path / "state") as store:
        store._base.execute("PRAGMA max_page_count = 40")
        with pytest.raises(EnvironmentProblem, match=r"No room to write .*state"):
            put_all(store, rows)
    with Store(tmp_path / "state") as again:
        kept = [again.has("engine", image, "stamp") for image in range(100)]
        assert 10 < sum(kept) < 90
        assert kept == sorted(kept, reverse=True)


def put_all(store: Store, rows: np.ndarray) -> None:
    for image in range(100):
        store.put("engine", image, "stamp", Scheme(), rows)
        store.write()


def test_a_file_that_another_evaluation_writes_is_named_so(tmp_path):
    rows = np.zeros((1, 6))
    with Store(tmp_path / "state") as first, Store(tmp_path / "state") as second:
        first.put("engine", 1, "stamp", Scheme(), rows)
        second._base.execute("PRAGMA busy_timeout = 0")
        with pytest.raises(OutputError, match="is locked") as caught:
            second.put("engine", 2, "stamp", Scheme(), rows)
        assert "Another evaluation" in caught.value.hint


def test_rows_that_do_not_fit_are_refused(blobs, blob_artifact, data, tmp_path):
    import sqlite3

    evaluate(blob_artifact, data, resume=tmp_path / "state")
    for value in (b"12345", np.full((2, 6), 9.0).tobytes(), None):
        base = sqlite3.connect(tmp_path / "state")
        base.execute("UPDATE results SET rows = ?", (value,))
        base.commit()
        base.close()
        with pytest.raises(SettingError) as caught:
            evaluate(blob_artifact, data, resume=tmp_path / "state")
        assert "--resume" in caught.value.hint


KILLED = """
import os, signal, sys
from pathlib import Path
from support.blobs import BlobPlugin
from support.plugins import registered
from convkit.evaluation import EvaluationOptions, _store, evaluate_artifact

def progress(step, done=0, total=0):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

_store._EVERY = 0.0
with registered(BlobPlugin(), "blobs"):
    data = Path(sys.argv[2])
    options = EvaluationOptions(resume=Path(sys.argv[3]), batch=2)
    evaluate_artifact(sys.argv[1], data, data.parent / "images", options, progress=progress)
"""


@pytest.mark.slow
def test_a_kill_loses_and_doubles_nothing(blobs, blob_artifact, data, tmp_path):
    arguments = [sys.executable, "-c", KILLED, blob_artifact.path, data, tmp_path / "state"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == -9, run.stderr
    report = evaluate(blob_artifact, data, resume=tmp_path / "state")
    assert report.kept == 6
    assert report.figures == evaluate(blob_artifact, data).figures
