"""Engine against engine: polygraphy runs and compares them, and reads back what was saved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from polygraphy.comparator import Comparator, RunResults
from support.imprecise import change_onnxruntime
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact, Backend, Engine, Session, Verdict, hookimpl, validate
from convkit.artifact import spec_from_manifest
from convkit.backends import open_session
from convkit.errors import EnvironmentProblem, OutputError
from convkit.proof import GoldenSamples, _engines, limits_of, shape_cases

Change = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class OtherSession(Session):
    def __init__(self, file: Path, change: Change) -> None:
        self.inner, self.change = open_session("onnxruntime", file), change

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.change(self.inner.run(inputs))


@pytest.fixture
def artifact(toy: ToyPlugin, toy_artifact: Artifact, tmp_path: Path) -> Artifact:
    """A copy of the toy's artifact: a validation that passes is recorded in it."""
    return Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "toy"))


@contextmanager
def other_engine(change: Change = lambda outputs: outputs) -> Iterator[None]:
    """Install a backend called ``other`` that changes what ONNX Runtime returns."""

    class Other(Backend):
        name: ClassVar[str] = "other"
        summary: ClassVar[str] = "ONNX Runtime with a change"

        def problem(self, device: str = "cpu") -> str:
            return ""

        def open(self, engine: Engine, *, device: str = "cpu") -> Session:
            return OtherSession(engine.file, change)

    class Plugin:
        @hookimpl
        def convkit_backends(self) -> list[Backend]:
            return [Other()]

    with registered(Plugin(), "other"):
        yield


def shifted(by: float) -> Change:
    return lambda outputs: {name: value + np.float32(by) for name, value in outputs.items()}


def engines(verdict: Verdict) -> dict[str, tuple[bool, float, float]]:
    """Return passed, figure and limit of the checks of engine against engine, by case."""
    checks = [check for check in verdict.checks if check.kind == "engines"]
    assert {check.output for check in checks} == {"logits"}
    assert len({check.case for check in checks}) == len(checks)
    return {check.case: (check.passed, check.figures["max_abs"], check.limits["max_abs"]) for check in checks}


def test_polygraphy_runs_both_engines_on_every_case(artifact, monkeypatch):
    seen = []
    run = Comparator.run

    def spy(runners, **options):
        seen.append([runner.name for runner in runners])
        return run(runners, **options)

    monkeypatch.setattr(Comparator, "run", staticmethod(spy))
    with other_engine():
        found = engines(validate(artifact, backend="other"))
    assert seen == [["onnxruntime", "other"]]
    spec = spec_from_manifest(artifact.manifest)
    assert set(found) == {str(case) for case in shape_cases(spec.dims)}
    assert all(passed and figure == 0 for passed, figure, _ in found.values())


def test_two_engines_may_differ_by_twice_the_limit_of_each(artifact):
    spec, verdict = spec_from_manifest(artifact.manifest), Verdict.from_json(artifact.verdict)
    limit = limits_of(verdict.baselines["logits"], spec.outputs[0].tolerance)["max_abs"]
    for by, passed in ((1.5 * limit, True), (3 * limit, False)):
        with other_engine(shifted(by)):
            found = engines(validate(artifact, backend="other"))
        for good, figure, allowed in found.values():
            assert good is passed
            assert allowed == pytest.approx(2 * limit)
            assert figure == pytest.approx(by, rel=0.2)  # added to float32 logits


def test_onnxruntime_is_no_judge_where_it_misses_the_limits_itself(artifact, monkeypatch):
    """Else nothing that PyTorch proved could be validated again where ONNX Runtime computes less exactly."""
    change_onnxruntime(monkeypatch, lambda value: value + 0.5 * (len(value) > 1))
    verdict = validate(artifact, backend="torch")
    assert verdict.passed, verdict.failures
    cases = {str(case) for case in shape_cases(spec_from_manifest(artifact.manifest).dims)}
    assert set(engines(verdict)) == {case for case in cases if "batch 1" in case} < cases
    (note,) = (note for note in verdict.notes if "onnxruntime" in note)
    assert "not compared" in note
    assert "logits" in note


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_outputs_of_zeros_and_infinities_are_compared_without_a_warning(artifact, monkeypatch):
    for value in (0.0, np.inf):
        change_onnxruntime(monkeypatch, lambda found, value=value: np.full_like(found, value))
        with other_engine():
            assert not validate(artifact, backend="other").passed


def test_an_engine_that_differs_from_the_other_fails(artifact):
    with other_engine(shifted(0.5)):
        verdict = validate(artifact, backend="other")
    assert not verdict.passed
    failed = [check for check in verdict.failures if check.kind == "engines"]
    assert {check.note for check in failed} == {"other against onnxruntime"}
    assert [check.figures["max_abs"] for check in failed] == pytest.approx([0.5] * len(failed), rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: {"logits": np.full_like(outputs["logits"], np.nan)},
        lambda outputs: {"logits": outputs["logits"][:, :2]},
        lambda outputs: {"logits": outputs["logits"][..., None]},
    ],
    ids=["NaN", "a class less", "an axis more"],
)
def test_what_cannot_be_compared_fails(artifact, change):
    with other_engine(change):
        found = engines(validate(artifact, backend="other"))
    assert not any(passed for passed, _, _ in found.values())


def test_an_engine_that_leaves_out_the_layers_fails(artifact):
    with other_engine(lambda outputs: {"logits": outputs["logits"]}):
        failed = validate(artifact, backend="other").failures
    assert [(check.kind, check.note.partition(":")[0]) for check in failed] == [
        ("layers", "the first layer that differs is stem.0/Conv")
    ]


def test_onnx_runtime_is_not_compared_with_itself(artifact):
    assert all(check.kind != "engines" for check in validate(artifact).checks)


@pytest.mark.parametrize("backend", ["onnxruntime", "other"])
def test_saved_results_are_what_polygraphy_reads(artifact, tmp_path, backend):
    file = tmp_path / "new folder" / "results.json"
    with other_engine():
        assert validate(artifact, backend=backend, save_results=file).passed
    results = RunResults.load(str(file))
    assert [name for name, _ in results.items()] == (
        ["onnxruntime"] if backend == "onnxruntime" else ["onnxruntime", "other"]
    )
    spec = spec_from_manifest(artifact.manifest)
    golden = GoldenSamples.load(artifact.path, spec)
    session = open_session("onnxruntime", artifact.model)
    cases = shape_cases(spec.dims)
    assert len(results["onnxruntime"]) == len(cases)
    for iteration, case in zip(results["onnxruntime"], cases, strict=True):
        expected = session.run(golden.samples.feed(case))["logits"]
        np.testing.assert_array_equal(iteration["logits"], expected)


def test_polygraphys_own_command_shows_saved_results(artifact, tmp_path):
    file = tmp_path / "results.json"
    validate(artifact, save_results=file)
    code = "from polygraphy.tools import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "data", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "logits" in done.stdout
    assert "onnxruntime" in done.stdout


def test_results_are_saved_where_they_can_be(artifact, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write") as caught:
        validate(artifact, save_results=tmp_path / "file" / "results.json")
    assert "--save-results" in caught.value.hint


def test_a_full_disk_is_the_environments_problem(artifact, tmp_path, monkeypatch):
    def full(path: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_engines, "write_atomic", full)
    with pytest.raises(EnvironmentProblem, match="No space left"):
        validate(artifact, save_results=tmp_path / "results.json")


def test_comparing_says_nothing(artifact, capfd, recwarn):
    with other_engine(shifted(0.5)):
        validate(artifact, backend="other")
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_two_inputs_of_different_dtypes_reach_the_engines(pair, pair_artifact, tmp_path):
    file = tmp_path / "results.json"
    with other_engine():
        verdict = validate(pair_artifact, backend="other", save_results=file)
    assert verdict.passed
    compared = {(check.output, check.figures["max_abs"]) for check in verdict.checks if check.kind == "engines"}
    assert compared == {("scores", 0), ("mean", 0), ("lengths", 0)}
    assert json.loads(file.read_text())
    dtypes = {name: value.dtype.name for name, value in RunResults.load(str(file))["other"][0].items()}
    assert dtypes == {"scores": "float32", "mean": "float32", "lengths": "int64"}
