"""The engine of an artifact: which one is opened, when it counts as proved, and the rungs that a proof writes.

The backend is one of the test: it builds engines, and runs them by ONNX Runtime on a GPU that it pretends to have.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact, Backend, Engine, Session, hookimpl, load, validate
from convkit.artifact import stored_engines
from convkit.backends import PASSED, PENDING, RUNGS, Ladder, Rung, open_session
from convkit.conversion import build_engine
from convkit.errors import ArtifactError, EnvironmentProblem, IntegrityError, ValidationError
from convkit.evaluation import check_pipeline, prove_artifact
from convkit.proof import Check

NAME = "pretend"


class PretendSession(Session):
    def __init__(self, backend: Pretend, session: Session, device: str) -> None:
        self.backend, self.session, self.device = backend, session, "cpu"
        self.runs = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs += 1
        late = self.backend.wrong_after is not None and self.runs > self.backend.wrong_after
        return {name: value * (1.5 if late else 1) for name, value in self.session.run(inputs).items()}


class Pretend(Backend):
    """Copies the graph as its engine; ``wrong_after`` so many runs of a session its results are wrong."""

    name: ClassVar[str] = NAME
    summary: ClassVar[str] = "pretends to be a GPU"
    builds: ClassVar[bool] = True
    default_device: ClassVar[str] = "pretend:0"

    def __init__(self) -> None:
        self.missing = ""
        self.here = {"gpu": "Pretend GPU", "compute_capability": "8.6", "driver": "1", "version": "1.0"}
        self.wrong_after: int | None = None
        self.opened: list[Engine] = []

    def problem(self, device: str = "cpu") -> str:
        return self.missing or ("" if device == self.default_device else f"there is no {device}.")

    def build(self, graph: Path, folder: Path, *rest: Any) -> Engine:
        file = folder / "model.plan"
        shutil.copyfile(graph, file)
        rungs = [Rung("built", PASSED, "copied"), Rung("ran", PENDING, "needs a GPU")]
        return Engine(NAME, file, ("sm86",), {"version": "1.0", "layers": []}, Ladder(tuple(rungs)))

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        self.opened.append(engine)
        return PretendSession(self, open_session("onnxruntime", engine.file), device)

    def machine(self, device: str) -> Mapping[str, str]:
        return self.here


class PretendPlugin:
    def __init__(self) -> None:
        self.backend = Pretend()

    @hookimpl
    def convkit_backends(self) -> Iterable[Backend]:
        return [self.backend]


@pytest.fixture
def backend(toy: ToyPlugin) -> Iterator[Pretend]:
    with registered(PretendPlugin(), NAME) as plugin:
        yield plugin.backend


@pytest.fixture
def bare(backend: Pretend, toy_artifact: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the toy's artifact, without an engine."""
    return Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "toy"))


@pytest.fixture
def artifact(bare: Artifact) -> Artifact:
    """The same with an engine that never ran."""
    build_engine(bare.path, NAME)
    return bare


@pytest.fixture
def raws() -> Sequence[np.ndarray]:
    return [np.full((40, 50, 3), shade, np.uint8) for shade in (30, 200)]


def states(artifact: Artifact) -> dict[str, str]:
    return {name: rung["status"] for name, rung in stored_engines(artifact)[NAME].ladder.items()}


def test_an_artifact_without_the_engine_names_the_command_that_builds_it(bare):
    for action in (
        lambda: load(bare, backend=NAME),
        lambda: prove_artifact(bare, backend=NAME),
        lambda: validate(bare, backend=NAME),
    ):
        with pytest.raises(ArtifactError, match="contains no engine 'pretend'") as caught:
            action()
        assert f"convkit build {bare.path} --to {NAME}" in caught.value.hint


def test_an_engine_that_never_ran_is_refused_with_the_command_that_proves_it(artifact, backend):
    with pytest.raises(ValidationError, match="never ran") as caught:
        load(artifact, backend=NAME)
    assert f"convkit validate {artifact.path} --backend {NAME} --device pretend:0" in caught.value.hint
    assert "--unproved" in caught.value.hint
    assert not backend.opened


def test_unproved_runs_it_as_it_is(artifact, backend, raws):
    with load(artifact, backend=NAME, unproved=True) as predictor, load(artifact) as right:
        assert [r.to_json() for r in predictor.predict(raws)] == [r.to_json() for r in right.predict(raws)]
    (engine,) = backend.opened
    assert engine.file == artifact.path / "engines" / NAME / "model.plan"
    assert engine.targets == ("sm86",)


def test_a_proof_writes_the_upper_rungs_and_then_the_engine_is_loaded(artifact, backend, raws):
    before = {
        name: rung for name, rung in stored_engines(artifact)[NAME].ladder.items() if name in ("exported", "built")
    }
    proof = prove_artifact(artifact, backend=NAME)
    assert proof.verdict is not None
    assert proof.verdict.passed
    kinds = {check.kind for check in proof.verdict.checks}
    assert {"values", "engines", "batch", "pipeline"} <= kinds
    ladder = json.loads((artifact.path / "engines" / NAME / "verdict.json").read_text())["ladder"]
    assert {name: ladder[name] for name in before} == before
    for name in ("ran", "pipeline"):
        assert ladder[name]["status"] == "passed"
        assert ladder[name]["gpu"] == "Pretend GPU"
        assert (ladder[name]["compute_capability"], ladder[name]["version"]) == ("8.6", "1.0")
    with load(artifact, backend=NAME) as predictor:
        assert len(predictor.predict(raws)) == 2


def test_an_engine_may_have_float16_inputs_and_outputs(bare, raws):
    build_engine(bare.path, NAME, precision="fp16", io_precision="fp16")
    stored = stored_engines(bare)[NAME]
    assert stored.description["io"] == {"images": "float16", "logits": "float16"}
    graph = onnx.load(stored.plan).graph
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT16}
    assert "Cast" not in {node.op_type for node in graph.node}
    proof = prove_artifact(bare, backend=NAME)
    assert proof.verdict is not None
    assert proof.verdict.passed
    assert {"shape", "values", "engines", "preprocess", "pipeline"} <= {check.kind for check in proof.verdict.checks}
    with load(bare, backend=NAME) as predictor, load(bare) as own:
        assert predictor.prepare(raws[0]).tensors["images"].dtype == np.float16
        assert predictor.outputs(raws[0])["logits"].dtype == np.float16
        assert own.outputs(raws[0])["logits"].dtype == np.float32
        for mine, theirs in zip(predictor.predict(raws), own.predict(raws), strict=True):
            assert np.abs(mine.probabilities - theirs.probabilities).max() < 2e-3
    build_engine(bare.path, NAME, precision="fp16")
    assert "io" not in json.loads((stored.folder / "engine.json").read_text())


def test_types_of_inputs_that_nobody_builds_are_refused(artifact):
    file = artifact.path / "engines" / NAME / "engine.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "io": {"images": "float8"}}))
    with pytest.raises(IntegrityError, match=r"float8.*\$\.io"):
        load(artifact, backend=NAME, unproved=True)


def test_every_shape_of_the_profile_is_proved(artifact):
    proof = prove_artifact(artifact, backend=NAME)
    assert proof.verdict is not None
    cases = [check.case for check in proof.verdict.checks if check.kind == "pipeline"]
    assert cases == ["batch 1", "mixed stream"]
    shapes = {check.case for check in proof.verdict.checks if check.kind == "values"}
    assert {"min=opt (batch 1)", "max (batch 4)"} <= shapes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("compute_capability", "8.9", "with compute capability 8.6, and here is 8.9"),
     ("version", "1.1", "with version 1.0, and here is 1.1")],
)  # fmt: skip
def test_a_proof_on_another_machine_does_not_count(artifact, backend, key, value, message):
    prove_artifact(artifact, backend=NAME)
    backend.here = {**backend.here, key: value}
    with pytest.raises(ValidationError, match=message):
        load(artifact, backend=NAME)
    prove_artifact(artifact, backend=NAME)
    load(artifact, backend=NAME).close()


@pytest.mark.parametrize("key", ["gpu", "driver"])
def test_another_gpu_of_the_same_kind_needs_no_new_proof(artifact, backend, key):
    prove_artifact(artifact, backend=NAME)
    backend.here = {**backend.here, key: "another"}
    load(artifact, backend=NAME).close()


def test_a_new_build_needs_a_new_proof(artifact):
    prove_artifact(artifact, backend=NAME)
    build_engine(artifact.path, NAME)
    assert states(artifact)["ran"] == "pending"
    with pytest.raises(ValidationError, match="never ran"):
        load(artifact, backend=NAME)


def test_the_verdict_of_another_plan_does_not_count(artifact):
    prove_artifact(artifact, backend=NAME)
    folder = artifact.path / "engines" / NAME
    document = json.loads((folder / "verdict.json").read_text())
    document["ladder"]["ran"]["plan"] = "0" * 64
    (folder / "verdict.json").write_text(json.dumps(document))
    with pytest.raises(ValidationError, match="another plan"):
        load(artifact, backend=NAME)


def test_an_engine_that_computes_something_else_is_recorded_and_refused(artifact, backend):
    backend.wrong_after = 0
    proof = prove_artifact(artifact, backend=NAME)
    assert proof.verdict is not None
    assert not proof.verdict.passed
    assert states(artifact)["ran"] == "failed"
    assert states(artifact)["pipeline"] == "pending"
    backend.wrong_after = None
    with pytest.raises(ValidationError, match="rung 'ran' failed"):
        load(artifact, backend=NAME)
    prove_artifact(artifact, backend=NAME)
    assert states(artifact)["ran"] == "passed"


def test_results_that_go_wrong_in_a_later_stream_fail_the_pipeline(artifact, backend, monkeypatch):
    from convkit.evaluation import _validate

    golden = len(json.loads((artifact.path / "proof" / "samples.json").read_text())["files"])
    opened: list[PretendSession] = []
    genuine = PretendSession.__init__

    def spoil(session: PretendSession, *arguments: Any) -> None:
        opened.append(session)
        genuine(session, *arguments)

    def again(*arguments: Any) -> list[Check]:
        opened[-1].runs = 0
        backend.wrong_after = golden
        return check_pipeline(*arguments)

    monkeypatch.setattr(PretendSession, "__init__", spoil)
    monkeypatch.setattr(_validate, "check_pipeline", again)
    proof = prove_artifact(artifact, backend=NAME)
    assert len(opened) == 1
    assert proof.verdict is not None
    assert not proof.verdict.passed
    assert {check.kind for check in proof.verdict.failures} == {"pipeline"}
    assert [check.case for check in proof.verdict.failures] == ["mixed stream"]
    assert (states(artifact)["ran"], states(artifact)["pipeline"]) == ("passed", "failed")


def test_where_it_cannot_run_the_rungs_stay_pending_and_nothing_is_written(artifact, backend):
    file = artifact.path / "engines" / NAME / "verdict.json"
    before = file.read_bytes()
    backend.missing = "there is no GPU."
    proof = prove_artifact(artifact, backend=NAME)
    assert proof.verdict is None
    assert proof.problem == "there is no GPU."
    assert (proof.ladder["ran"].status, proof.ladder["pipeline"].status) == ("pending", "pending")
    assert file.read_bytes() == before
    with pytest.raises(EnvironmentProblem, match="there is no GPU"):
        load(artifact, backend=NAME)


def test_a_changed_plan_is_refused_before_anything_is_opened(artifact, backend):
    plan = artifact.path / "engines" / NAME / "model.plan"
    plan.write_bytes(plan.read_bytes() + b" ")
    for action in (lambda: load(artifact, backend=NAME, unproved=True), lambda: prove_artifact(artifact, backend=NAME)):
        with pytest.raises(IntegrityError, match=r"model\.plan"):
            action()
    assert not backend.opened


def test_validate_runs_the_engine_and_records_it(artifact, backend):
    assert validate(artifact, backend=NAME).passed
    assert states(artifact)["ran"] == "passed"
    assert backend.opened[0].file.name == "model.plan"


def test_the_ladder_of_an_engine_has_every_rung(artifact):
    ladder = prove_artifact(artifact, backend=NAME).ladder
    assert [rung.name for rung in ladder.rungs] == list(RUNGS)
    assert ladder["typed"].status == "not applicable"
    assert {ladder[name].status for name in ("exported", "decoded", "built", "ran", "pipeline")} == {"passed"}


def test_without_a_gpu_validate_says_so(artifact, backend):
    backend.missing = "there is no GPU."
    with pytest.raises(EnvironmentProblem, match="there is no GPU"):
        validate(artifact, backend=NAME)


def test_a_ladder_that_somebody_edited_is_one_error(artifact):
    file = artifact.path / "engines" / NAME / "verdict.json"
    document = json.loads(file.read_text())
    for rung in ({"state": "passed"}, {"status": "fine", "summary": ""}, None):
        file.write_text(json.dumps({"ladder": {**document["ladder"], "ran": rung}}))
        with pytest.raises(IntegrityError, match="ladder"):
            load(artifact, backend=NAME)
