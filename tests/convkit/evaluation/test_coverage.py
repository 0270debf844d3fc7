"""What a proof covers: `load` takes a backend and a kind of device that passed, and no other without being told to."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact, Backend, Engine, Session, convert, hookimpl, load, validate
from convkit.backends import RUNGS, open_session
from convkit.errors import EnvironmentProblem, IntegrityError, SettingError, ValidationError
from convkit.evaluation import prove_artifact

NAME = "other"
RECORD = f"{NAME}-pretend-8.6.json"


class OtherSession(Session):
    device = "cpu"

    def __init__(self, backend: Other, session: Session) -> None:
        self.backend, self.session = backend, session

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value * self.backend.factor for name, value in self.session.run(inputs).items()}


class Other(Backend):
    """ONNX Runtime under another name, on a GPU that it pretends to have; ``factor`` spoils its results."""

    name: ClassVar[str] = NAME
    summary: ClassVar[str] = "another one"
    default_device: ClassVar[str] = "pretend"

    def __init__(self) -> None:
        self.factor = np.float32(1)
        self.here = {"version": "1.0", "gpu": "Pretend GPU", "compute_capability": "8.6"}

    def problem(self, device: str = "cpu") -> str:
        return ""

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        return OtherSession(self, open_session("onnxruntime", engine.file))

    def machine(self, device: str) -> Mapping[str, str]:
        return self.here if device.startswith("pretend") else {"version": self.here["version"]}


class OtherPlugin:
    def __init__(self) -> None:
        self.backend = Other()

    @hookimpl
    def convkit_backends(self) -> Iterable[Backend]:
        return [self.backend]


@pytest.fixture
def other(toy: ToyPlugin) -> Iterator[Other]:
    with registered(OtherPlugin(), NAME) as plugin:
        yield plugin.backend


@pytest.fixture
def artifact(other: Other, toy_artifact: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the toy's artifact, which ONNX Runtime proved on the CPU."""
    return Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "toy"))


def refusal(artifact: Artifact, **how: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        load(artifact, **{"backend": NAME, **how})
    assert "--unproved" in caught.value.hint
    return caught.value


def test_what_converted_it_is_proved_and_is_what_runs_by_default(artifact):
    with load(artifact) as predictor:
        assert (predictor.backend, predictor.unproved, predictor.coverage.note) == ("onnxruntime", "", "")


def test_another_backend_is_refused_with_the_command_that_proves_it(artifact):
    error = refusal(artifact)
    assert "is not proved here" in error.message
    assert f"convkit validate {artifact.path} --backend {NAME} --device pretend" in error.hint


def test_the_same_backend_on_another_device_is_refused(artifact, other):
    validate(artifact, backend=NAME)
    assert f"--backend {NAME} --device cpu" in refusal(artifact, device="cpu").hint
    load(artifact, backend=NAME, device="pretend:1").close()


def test_a_validate_that_passes_covers_it(artifact):
    assert validate(artifact, backend=NAME).passed
    with load(artifact, backend=NAME) as predictor:
        assert predictor.unproved == ""
    document = json.loads((artifact.path / "proof" / "backends" / RECORD).read_text())
    assert (document["backend"], document["device"], document["machine"]["gpu"]) == (NAME, "pretend", "Pretend GPU")
    assert list(document["ladder"]) == list(RUNGS)
    Artifact.open(artifact.path).verify()


def test_unproved_runs_it_and_says_why(artifact):
    with load(artifact, backend=NAME, unproved=True) as predictor:
        assert "onnxruntime (cpu)" in predictor.unproved
    with load(artifact, unproved=True) as predictor:
        assert predictor.unproved == "", "what is proved is not called unproved"


@pytest.mark.parametrize("backend", [NAME, "onnxruntime"])
def test_a_validate_that_fails_takes_it_back(artifact, other, backend, monkeypatch):
    session = type(open_session("onnxruntime", artifact.model))
    genuine = session.run
    validate(artifact, backend=backend)
    other.factor = np.float32(1.01)
    if backend != NAME:
        spoil = lambda self, feed: {k: v * np.float32(1.01) for k, v in genuine(self, feed).items()}  # noqa: E731
        monkeypatch.setattr(session, "run", spoil)
    assert not validate(artifact, backend=backend).passed
    assert "its rungs 'decoded' and 'ran' failed" in refusal(artifact, backend=backend).message
    other.factor = np.float32(1)
    monkeypatch.setattr(session, "run", genuine)
    assert validate(artifact, backend=backend).passed
    load(artifact, backend=backend).close()


def test_a_gpu_counts_by_its_compute_capability(artifact, other):
    validate(artifact, backend=NAME)
    other.here = {**other.here, "gpu": "Another of its kind"}
    load(artifact, backend=NAME).close()
    other.here = {**other.here, "compute_capability": "9.0"}
    refusal(artifact)
    validate(artifact, backend=NAME)
    load(artifact, backend=NAME).close()
    other.here = {**other.here, "compute_capability": "8.6"}
    load(artifact, backend=NAME).close()


def test_another_version_counts_with_a_note(artifact, other):
    validate(artifact, backend=NAME)
    other.here = {**other.here, "version": "1.1"}
    with load(artifact, backend=NAME) as predictor:
        assert predictor.unproved == ""
        assert predictor.coverage.note == "proved with version 1.0, and here is 1.1"


def test_a_record_that_was_edited_or_copied_does_not_count(artifact, toy_weights_file, tmp_path):
    validate(artifact, backend=NAME)
    file = artifact.path / "proof" / "backends" / RECORD
    genuine = file.read_text()
    file.write_text(genuine.replace('"version": "1.0"', '"version": "1.1"'))
    assert "was edited" in refusal(artifact).message
    second = convert("toy", weights=toy_weights_file, output=tmp_path / "second", samples=2).artifact
    (second.path / "proof" / "backends").mkdir()
    (second.path / "proof" / "backends" / RECORD).write_text(genuine)
    assert "another artifact" in refusal(second).message
    file.write_text("{")
    with pytest.raises(IntegrityError, match=RECORD):
        load(artifact, backend=NAME)
    validate(artifact, backend=NAME)
    load(artifact, backend=NAME).close()


def test_an_artifact_that_may_only_be_read_is_proved_and_says_that_nothing_was_kept(artifact, monkeypatch):
    def refuse(path: Path, content: Any, **how: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("convkit.artifact._records.write_atomic", refuse)
    proof = prove_artifact(artifact, backend=NAME)
    assert proof.verdict is not None
    assert proof.verdict.passed
    assert "Read-only file system" in proof.unrecorded
    refusal(artifact)
    assert prove_artifact(artifact).unrecorded == "", "nothing new was found, so nothing is written"


def test_a_proof_that_says_no_more_than_the_artifact_writes_nothing(artifact):
    before = sorted(artifact.path.rglob("*"))
    assert validate(artifact).passed
    assert sorted(artifact.path.rglob("*")) == before


def test_the_engine_that_proved_it_is_remembered(toy, toy_weights_file, tmp_path):
    done = convert("toy", weights=toy_weights_file, output=tmp_path / "a", samples=2, backend="torch")
    with load(done.artifact) as predictor:
        assert predictor.backend == "torch"
    assert validate(done.artifact).backend == "torch"
    with pytest.raises(ValidationError, match="torch"):
        load(done.artifact, backend="onnxruntime")


def test_the_ladder_of_a_float32_graph(toy, toy_artifact):
    ladder = toy_artifact.verdict["ladder"]
    assert {name: rung["status"] for name, rung in ladder.items()} == {
        "exported": "passed", "typed": "not applicable", "decoded": "passed", "accepted": "not applicable",
        "understood": "not applicable", "built": "not applicable", "ran": "passed", "pipeline": "passed",
    }  # fmt: skip
    assert all(rung["summary"] for rung in ladder.values())


def test_a_failed_proof_has_its_ladder(artifact, other):
    other.factor = np.float32(1.01)
    ladder = prove_artifact(artifact, backend=NAME).ladder
    assert {name: ladder[name].status for name in ("exported", "ran", "pipeline")} == {
        "exported": "passed", "ran": "failed", "pipeline": "pending",
    }  # fmt: skip
    assert ladder["ran"].details["checks"]


def test_a_model_without_decode_has_nothing_decoded(embedding, embedding_artifact):
    assert embedding_artifact.verdict["ladder"]["decoded"]["status"] == "not applicable"
    assert embedding_artifact.verdict["ladder"]["pipeline"]["status"] == "passed"


def test_without_the_plugin_of_its_backend_an_artifact_says_so_and_a_misspelt_backend_is_a_usage_error(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path
) -> None:
    with registered(OtherPlugin(), NAME):
        path = convert("toy", weights=toy_weights_file, output=tmp_path / "out", backend=NAME, samples=1).artifact.path
    for use in (load, validate):
        with pytest.raises(EnvironmentProblem, match=f"proved with the backend '{NAME}'") as caught:
            use(path)
        assert "Install the plugin" in caught.value.hint
        assert caught.value.exit_code == 5
        with pytest.raises(SettingError, match="no backend 'onnxrt'") as refused:
            use(path, backend="onnxrt")
        assert refused.value.exit_code == 2
    validate(path, backend="onnxruntime")
    load(path, backend="onnxruntime").close()
