"""Commands on an artifact with a genuine engine of TensorRT-RTX, on a machine that cannot run it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.gpu import missing_gpu
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact
from convkit.conversion import build_engine

pytest.importorskip("tensorrt_rtx_bindings")
pytestmark = pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")

NAME = "tensorrt-rtx"


@pytest.fixture(scope="module")
def built(toy_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The toy's artifact with an engine."""
    copy = Artifact.open(shutil.copytree(toy_artifact.path, tmp_path_factory.mktemp("built") / "toy"))
    with registered(ToyPlugin()):
        build_engine(copy.path, NAME, targets=["sm86"])
    return copy


def test_validate_says_what_stays_pending_and_names_the_command_last(cli, built):
    said = cli("validate", built.path, "--backend", NAME)
    assert said.code == 0
    rungs = {words[0]: words[1] for line in said.lines if len(words := line.split()) > 2}
    assert {name: rungs[name] for name in ("understood", "built", "ran", "pipeline")} == {
        "understood": "passed", "built": "passed", "ran": "pending", "pipeline": "pending",
    }  # fmt: skip
    assert "was not run" in said.out
    assert said.lines[-1].endswith(f"convkit validate {built.path} --backend {NAME} --device cuda")


def test_json_has_ladder_problem_and_command(cli, built):
    document = cli("validate", built.path, "--backend", NAME, "--json").json
    assert document["ladder"]["ran"]["status"] == "pending"
    assert document["verdict"] is None
    assert document["problem"]
    assert document["command"].startswith("convkit validate ")


def test_pending_is_an_error_where_proof_is_required(cli, built):
    assert cli("validate", built.path, "--backend", NAME, "--require-proof").code == 5


@pytest.mark.parametrize("flags", [(), ("--unproved",)])
def test_run_needs_the_gpu(cli, built, flags):
    said = cli("run", built.path, "image.png", "--backend", NAME, *flags)
    assert said.code == 5
    assert "cannot run here" in said.err


def test_an_artifact_without_an_engine_names_the_command(cli, toy_artifact):
    for words in (("validate", toy_artifact.path), ("run", toy_artifact.path, "image.png")):
        said = cli(*words, "--backend", NAME)
        assert said.code == 1
        assert f"convkit build {toy_artifact.path} --to {NAME}" in " ".join(said.err.split())


def test_a_damaged_plan_is_refused_without_cuda(cli, built, tmp_path):
    copy = Path(shutil.copytree(built.path, tmp_path / "copy"))
    plan = copy / "engines" / NAME / "model.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    for command in ("validate", "run"):
        said = cli(command, copy, *(["image.png"] if command == "run" else []), "--backend", NAME)
        assert said.code == 4
        assert "model.plan" in said.err


def test_nothing_was_written(cli, built):
    ladder = json.loads((built.path / "engines" / NAME / "verdict.json").read_text())["ladder"]
    cli("validate", built.path, "--backend", NAME)
    assert json.loads((built.path / "engines" / NAME / "verdict.json").read_text())["ladder"] == ladder
    assert ladder["ran"]["status"] == "pending"


def test_build_in_16_bits_shows_its_rung_and_its_layers(cli, toy_artifact, tmp_path):
    copy = Path(shutil.copytree(toy_artifact.path, tmp_path / "copy"))
    said = cli("build", copy, "--to", NAME, "--target", "sm86", "--precision", "fp16")
    document = cli("build", copy, "--to", NAME, "--target", "sm86", "--precision", "bf16", "--json").json
    assert said.code == 0
    rungs = {words[0]: line for line in said.err.splitlines() if len(words := line.split()) > 2}
    assert "passed" in rungs["typed"]
    assert "nodes in float16" in rungs["typed"]
    assert "fp16 asked: " in said.err
    assert document["ladder"]["typed"]["status"] == "passed"
    assert document["ladder"]["built"]["precision"]["asked"] == ["bf16"]


def test_build_in_int8_needs_inputs_to_calibrate_with(cli, toy_artifact):
    said = cli("build", toy_artifact.path, "--to", NAME, "--precision", "int8")
    assert said.code == 2
    assert "int8 needs inputs for calibration" in said.err
    assert "--calibrate DIR" in said.err
