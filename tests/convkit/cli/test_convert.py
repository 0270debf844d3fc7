"""``convkit convert``: the path or JSON on stdout, talk on stderr, and every flag obeyed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convkit import Artifact


@pytest.fixture
def faulty(cli, tmp_path, monkeypatch):
    """Return the command line with a toy whose export is wrong."""
    from support.toy import ToyPlugin

    original = ToyPlugin.__init__
    monkeypatch.setattr(ToyPlugin, "__init__", lambda self: original(self, fault=lambda logits: logits + 1))
    return cli


def test_the_path_is_the_only_word_on_stdout_and_the_rest_is_talk(cli, toy_weights_file, tmp_path):
    said = cli("convert", "toy", "--weights", toy_weights_file, "--output", "made", "--samples", "1")
    assert said.code == 0
    assert said.out == "made\n"
    Artifact.open(tmp_path / "made").verify()
    steps = [line for line in said.err.splitlines() if line.startswith("convert toy: ")]
    words = [step.removeprefix("convert toy: ").split()[0] for step in steps]
    assert words[:3] + words[-4:] == ["reading", "running", "exporting", "proving", "proving", "proving", "writing"]
    assert set(words[3:-4]) == {"rewriting:"}
    assert "proved: 11 checks passed on onnxruntime (cpu)" in said.err
    assert "convkit run made" in said.err
    assert said.err.count("decoded results") == 1

    again = cli("convert", "toy", "-w", toy_weights_file, "-o", "made")
    assert (again.code, again.out) == (1, "")
    assert again.err.splitlines()[0] == "error: made exists already."

    quiet = cli("convert", "toy", "-w", toy_weights_file, "-o", "made", "--overwrite", "--json", "-q", "--samples", "1")
    assert (quiet.code, quiet.err) == (0, "")
    document = quiet.json
    assert document["proved"] is True
    assert document["artifact"] == "made"
    assert [document[key] for key in ("adapter", "variant", "form", "opset")] == ["toy", "toy_1", "logits", 20]
    assert document["verdict"]["passed"] is True
    assert document["seconds"] > 0


def test_a_result_that_is_not_proved_exits_4_with_the_ledger_on_stderr(faulty, toy_weights_file, tmp_path):
    said = faulty("convert", "toy", "-w", toy_weights_file, "-o", "made", "--samples", "1")
    assert said.code == 4
    assert said.out == ""
    assert "error: The ONNX model does not compute what PyTorch computes" in said.err
    assert "the error enters at stage 'patched', output 'logits'" in said.err
    assert any(line.startswith("patched") and line.rstrip().endswith("FAIL") for line in said.err.splitlines())
    assert "made.rejected" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["made.rejected"]

    quiet = faulty("convert", "toy", "-w", toy_weights_file, "-o", "made", "--samples", "1", "-q", "--json")
    assert quiet.code == 4
    assert quiet.json["proved"] is False
    assert quiet.json["hint"]
    assert quiet.err.startswith("error: The ONNX model"), "quiet keeps errors"


def test_verbose_adds_the_ledger_and_the_time_of_each_step(cli, toy_weights_file):
    said = cli("convert", "toy", "-w", toy_weights_file, "-o", "made", "--samples", "1", "-v")
    assert said.code == 0
    assert "vs stage before" in said.err
    assert any(line.strip().startswith("exporting to ONNX: ") for line in said.err.splitlines())


FLAGS = {
    "--to": ("onnx", "to", "onnx"),
    "--format": ("onnx", "to", "onnx"),
    "--form": ("logits", "form", "logits"),
    "--opset": ("21", "opset", 21),
    "--precision": ("fp32", "precision", "fp32"),
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
        (["toy", "-w", "x", "--opset", "9"], 2, "Opset 9", "20"),
        (["toy", "-w", "x", "--config", "none.toml"], 2, "none.toml", "--config"),
        (["toy", "-w", "x", "--inputs", "nowhere"], 1, "nowhere", "images"),
        (["toy", "-w", "x", "-o", "/proc/nowhere/out"], 1, "/proc/nowhere/out", "--output"),
        (["toy", "-w", "x", "--no-plugin", "toy"], 1, "no adapter 'toy'", "Installed"),
    ],
)
def test_what_cannot_be_done_is_one_error_with_a_hint(cli, tmp_path, words, code, message, hint):
    said = cli("convert", *words)
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
