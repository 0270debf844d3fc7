"""``convkit convert``: the path or JSON on stdout, talk on stderr, and every flag obeyed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from convkit import Artifact, Conversion, Verdict
from convkit.backends import RUNGS, Ladder
from convkit.conversion import ConversionPlan
from convkit.errors import ProofFailedError


@pytest.fixture
def converts(cli, monkeypatch):
    """Return the command line with a conversion that is finished already, and what it was asked for."""
    asked: list[tuple[ConversionPlan, bool]] = []

    def install(result: Conversion | ProofFailedError):
        def run_plan(plan, *, overwrite, progress):
            asked.append((plan, overwrite))
            for step in ("reading the checkpoint", "exporting to ONNX", "writing the artifact"):
                progress(step)
            if isinstance(result, ProofFailedError):
                raise result
            return result

        monkeypatch.setattr("convkit.conversion.run_plan", run_plan)
        return cli, asked

    return install


def conversion(artifact: Artifact) -> Conversion:
    """Return the finished conversion that made an artifact."""
    document = artifact.verdict
    return Conversion(
        artifact,
        Verdict.from_json(document),
        Ladder.from_json(document["ladder"]),
        seconds={"read the checkpoint": 1.234},
    )


@pytest.fixture
def proved(toy_artifact) -> Conversion:
    return conversion(toy_artifact)


@pytest.fixture
def failed(proved) -> ProofFailedError:
    """Return what a conversion raises whose patch changes the numbers."""
    document = proved.verdict.to_json()
    (first, *others) = document["ledger"]
    stage = {**first, "name": "patched", "output": "logits", "against_float64": 1.0, "passed": False}
    check = {**document["checks"][0], "passed": False}
    verdict = Verdict.from_json({**document, "ledger": [first, stage, *others], "checks": [check]})
    return ProofFailedError(f"The model computes something else: {verdict.headline()}.", hint="Look.", verdict=verdict)


def test_a_conversion_writes_what_it_says(cli, toy_weights_file, tmp_path):
    """The only test here that converts; all others print a conversion that is finished."""
    said = cli("convert", "toy", "--weights", toy_weights_file, "--output", "made", "--samples", "1")
    assert (said.code, said.out) == (0, "made\n")
    artifact = Artifact.open(tmp_path / "made")
    artifact.verify()
    assert artifact.manifest["verdict"]["headline"] in said.err
    again = cli("convert", "toy", "-w", toy_weights_file, "-o", "made")
    assert (again.code, again.out) == (1, "")
    assert again.err.splitlines()[0] == "error: made exists already."


def test_the_path_is_the_only_word_on_stdout_and_the_rest_is_talk(converts, proved):
    cli, asked = converts(proved)
    said = cli("convert", "toy", "--weights", "toy.pth", "--output", "made", "--overwrite")
    path = proved.artifact.path
    assert (said.code, said.out) == (0, f"{path}\n")
    assert [(str(plan.weights), str(plan.output), overwrite) for plan, overwrite in asked] == [
        ("toy.pth", "made", True)
    ]
    steps = [line for line in said.err.splitlines() if line.startswith("convert toy: ")]
    assert [step.removeprefix("convert toy: ").split()[0] for step in steps] == ["reading", "exporting", "writing"]
    assert proved.verdict.headline() in said.err
    assert said.err.count("decoded results") == 2, "decoded, and from raw inputs"
    words = [line.split() for line in said.err.splitlines()]
    assert [first[0] for first in words if len(first) > 2 and first[1] in ("passed", "not")] == list(RUNGS)
    assert "vs stage before" not in said.err


def test_the_next_commands_are_ones_that_work_for_this_model(converts, proved, pair_artifact, embedding_artifact):
    def commands(conversion: Conversion) -> list[str]:
        cli, _ = converts(conversion)
        lines = [line for line in cli("convert", "toy", "-w", "x").err.splitlines() if line.startswith("  convkit")]
        purposes = ("see what it finds", "prove it again, anywhere", "look inside")
        return [line.removesuffix(purpose).strip() for line, purpose in zip(lines, purposes, strict=True)]

    path = proved.artifact.path
    assert commands(proved) == [
        f"convkit run {path} IMAGE --draw out/",
        f"convkit validate {path}",
        f"convkit inspect {path}",
    ]
    for artifact, flags in ((pair_artifact, " --json"), (embedding_artifact, "")):
        first, *_ = commands(conversion(artifact))
        assert first == f"convkit run {artifact.path} FILE{flags}"
    spaced = Artifact(Path("a folder"), proved.artifact.manifest)
    assert commands(replace(proved, artifact=spaced))[0] == "convkit run 'a folder' IMAGE --draw out/"


def test_json_is_one_document_and_quiet_leaves_only_it(converts, proved):
    cli, _ = converts(proved)
    quiet = cli("convert", "toy", "-w", "x", "--json", "-q")
    assert (quiet.code, quiet.err) == (0, "")
    document = quiet.json
    assert document["proved"] is True
    assert document["artifact"] == str(proved.artifact.path)
    assert [document[key] for key in ("adapter", "variant", "form", "opset")] == ["toy", "toy_1", "logits", 20]
    assert document["verdict"] == proved.verdict.to_json()
    assert document["seconds"] >= 0
    assert document["stages"] == [{"stage": "read the checkpoint", "seconds": 1.23}]
    assert document["ladder"] == proved.artifact.verdict["ladder"]


def test_a_result_that_is_not_proved_exits_4_with_the_ledger_on_stderr(converts, failed):
    cli, _ = converts(failed)
    said = cli("convert", "toy", "-w", "x")
    assert (said.code, said.out) == (4, "")
    assert f"error: {failed.message}" in said.err
    assert "the error enters at stage 'patched', output 'logits'" in said.err
    assert any(line.startswith("patched") and line.rstrip().endswith("FAIL") for line in said.err.splitlines())

    quiet = cli("convert", "toy", "-w", "x", "-q", "--json")
    assert quiet.code == 4
    assert quiet.json == {"proved": False, "error": failed.message, "hint": "Look."}
    assert f"error: {failed.message}" in quiet.err, "quiet keeps errors"


def test_verbose_adds_the_ledger_and_the_time_of_each_step(converts, proved):
    cli, _ = converts(proved)
    said = cli("convert", "toy", "-w", "x", "-v")
    assert said.code == 0
    assert "vs stage before" in said.err
    assert any(line.strip().startswith("exporting to ONNX: ") for line in said.err.splitlines())


FLAGS = {
    "--to": ("onnx", "to", "onnx"),
    "--format": ("onnx", "to", "onnx"),
    "--form": ("logits", "form", "logits"),
    "--opset": ("21", "opset", 21),
    "--precision": ("fp16", "precision", "fp16"),
    "--inputs": ("photos", "inputs", "photos"),
    "--names": ("names.txt", "names", "names.txt"),
    "--set": ("scale=2", "set.scale", 2.0),
    "--samples": ("3", "samples", 3),
    "--seed": ("5", "seed", 5),
    "--backend": ("onnxruntime", "backend", "onnxruntime"),
    "--device": ("cpu", "device", "cpu"),
    "--shape": ("batch=1:2:4", "shape", ["batch=1:2:4"]),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_reaches_the_plan_with_its_origin(cli, flag):
    given, name, value = FLAGS[flag]
    said = cli("convert", "toy", "-w", "nowhere.pth", flag, given, "--plan", "--json")
    assert said.code == 0
    setting = next(item for item in said.json["settings"] if item["name"] == name)
    assert setting == {"name": name, "value": value, "origin": "flag"}


def test_flags_that_may_come_more_than_once_add_up(cli):
    words = ["--shape", "batch=2", "--shape", "height=64", "--shape", "width=32:64:96"]
    said = cli("convert", "toy", "-w", "x", *words, "--plan", "--json")
    assert said.json["dims"] == ["batch=2", "height=64", "width=32:64:96"]


def test_a_plan_shows_stages_shapes_and_settings_and_does_nothing(cli, tmp_path):
    Path("convkit.toml").write_text("[convert]\nopset = 22\n[convert.toy]\nseed = 9\n")
    said = cli("convert", "toy", "-w", "nowhere.pth", "-o", "made", "--form", "logits", "--plan")
    assert said.code == 0
    assert said.err == ""
    assert said.lines[0].startswith("Stages: read the checkpoint > ")
    assert said.lines[1] == "Shapes: batch=1:1:4, height=32, width=32"
    rows = {line.split()[0]: line.split()[1:] for line in said.lines[3:]}
    assert rows["opset"] == ["22", "convkit.toml"]
    assert rows["seed"] == ["9", "convkit.toml"]
    assert rows["form"] == ["logits", "flag"]
    assert rows["set.scale"] == ["1.0", "adapter"]
    assert rows["samples"] == ["8", "built-in"]
    assert [path.name for path in tmp_path.iterdir()] == ["convkit.toml"]


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (["tyo", "-w", "x"], 1, "no adapter 'tyo'", "Did you mean 'toy'"),
        (["toy", "-w", "x", "--form", "logit"], 2, "'logit'", "Did you mean 'logits'"),
        (["toy", "-w", "x", "--shape", "heigth=64"], 2, "'heigth'", "Did you mean 'height'"),
        (["toy", "-w", "x", "--opset", "9"], 2, "opset cannot be 9", "19 to 23"),
        (["toy", "-w", "x", "--samples", "0"], 2, "samples cannot be 0", "1 to 64"),
        (["toy", "-w", "x", "--backend", "onnx"], 2, "no backend 'onnx'", "Did you mean 'onnxruntime'"),
        (["toy", "-w", "."], 1, ". is a folder", "Give a file"),
        (["toy", "-w", "x", "--config", "none.toml"], 2, "none.toml", "--config"),
        (["toy", "-w", "WEIGHTS", "--inputs", "nowhere"], 1, "no folder nowhere", "images"),
        (["toy", "-w", "WEIGHTS", "--inputs", "nowhere.png"], 1, "nowhere.png", "folder"),
        (["toy", "-w", "x", "-o", "/proc/nowhere/out"], 1, "/proc/nowhere/out", "--output"),
        (["toy", "-w", "x", "--no-plugin", "toy"], 1, "no adapter 'toy'", "Installed"),
    ],
)
def test_what_cannot_be_done_is_one_error_with_a_hint(cli, tmp_path, toy_weights_file, words, code, message, hint):
    said = cli("convert", *[toy_weights_file if word == "WEIGHTS" else word for word in words])
    assert (said.code, said.out) == (code, "")
    error, *rest = said.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert message in error
    assert rest[0].startswith("  hint: ")
    assert hint in rest[0]
    assert list(tmp_path.iterdir()) == []


def test_json_of_a_plan_is_one_document(cli):
    said = cli("convert", "toy", "-w", "x", "--plan", "--json")
    document = json.loads(said.out)
    assert set(document) == {"adapter", "stages", "settings", "dims"}
    assert document["stages"][0] == "read the checkpoint"
