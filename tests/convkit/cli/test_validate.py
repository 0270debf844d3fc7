"""``convkit validate``: the table or JSON on stdout, and the exit code is the verdict."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from convkit.artifact import publish, spec_from_manifest, staging
from convkit.backends import RUNGS
from convkit.proof import GoldenSamples, shape_cases

MANIFEST = "manifest.json"


def parts(said) -> tuple[list[str], list[str]]:
    """Return the lines of the ladder and those of the verdict."""
    blank = said.lines.index("")
    return said.lines[:blank], said.lines[blank + 1 :]


def test_the_table_is_the_result_and_the_steps_are_talk(cli, toy_artifact):
    said = cli("validate", toy_artifact.path)
    assert said.code == 0
    rungs, table = parts(said)
    assert [line.split()[0] for line in rungs] == list(RUNGS)
    assert table[0].split() == ["output", "check", "shapes", "worst", "limit"]
    assert said.lines[-1].startswith("proved: 16 checks passed on onnxruntime (cpu); reference stored PyTorch float64")
    kinds = {" ".join(line.split()[:2]) for line in table[1:-1]}
    assert {"logits shape", "logits values", "logits batch", "images preprocess"} <= kinds
    assert "checking hashes" in said.err
    assert cli("validate", toy_artifact.path, "-q").err == ""


def test_json_is_the_whole_verdict(cli, toy_artifact):
    said = cli("validate", toy_artifact.path, "--json")
    assert said.code == 0
    assert said.json["passed"] is True
    assert len(said.json["checks"]) == 16
    assert list(said.json["ladder"]) == list(RUNGS)
    assert {rung["status"] for rung in said.json["ladder"].values()} == {"passed", "not applicable"}
    json.dumps(said.json, allow_nan=False)


def test_verbose_shows_every_check(cli, toy_artifact):
    short, long = (cli("validate", toy_artifact.path, *flags).lines for flags in ((), ("-v",)))
    assert len(long) > len(short)


def test_a_graph_that_computes_something_else_exits_4(cli, toy_artifact, tmp_path):
    import onnx

    from convkit.self_test import spoilt_graphs

    with staging(tmp_path / "spoilt") as folder:
        shutil.copytree(toy_artifact.path, folder, dirs_exist_ok=True)
        (folder / MANIFEST).unlink()
        _, model = next(spoilt_graphs(onnx.load(toy_artifact.model), "a layer scaled by 1.01"))
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        manifest = {key: value for key, value in toy_artifact.manifest.items() if key not in ("files", "seal")}
        publish(folder, tmp_path / "spoilt", manifest, overwrite=False)
    said = cli("validate", "spoilt")
    assert said.code == 4
    assert "FAIL" in said.out
    assert said.lines[-1].startswith("NOT proved")
    document = cli("validate", "spoilt", "--json")
    assert (document.code, document.json["passed"]) == (4, False)
    statuses = {name: rung["status"] for name, rung in document.json["ladder"].items()}
    assert (statuses["exported"], statuses["ran"], statuses["pipeline"]) == ("passed", "failed", "pending")
    refused = cli("run", "spoilt", "image.png")
    assert refused.code == 4
    assert "failed" in refused.err


def test_a_changed_file_exits_4_and_says_which(cli, toy_artifact):
    copy = Path(shutil.copytree(toy_artifact.path, "copy"))
    (copy / "model.onnx").write_bytes(b"x")
    said = cli("validate", copy)
    assert (said.code, said.out) == (4, "")
    assert "copy/model.onnx is not the file that was proved" in said.err


def test_an_edited_manifest_exits_4(cli, toy_artifact):
    copy = Path(shutil.copytree(toy_artifact.path, "copy"))
    (copy / MANIFEST).write_text((copy / MANIFEST).read_text().replace('"class 0"', '"cat"'))
    said = cli("validate", copy)
    assert (said.code, said.out) == (4, "")
    assert "edited after the proof" in said.err


def test_what_is_no_artifact_exits_1(cli):
    said = cli("validate", "nowhere")
    assert (said.code, said.out) == (1, "")
    assert "There is no artifact nowhere" in said.err


def test_outputs_can_be_kept_for_polygraphy(cli, toy_artifact):
    from polygraphy.comparator import RunResults

    said = cli("validate", toy_artifact.path, "--save-results", "kept/outputs.json")
    assert said.code == 0
    results = RunResults.load("kept/outputs.json")
    assert list(results.keys()) == ["onnxruntime"]
    batches = [iteration["logits"].shape for iteration in results["onnxruntime"]]
    assert batches == [(case.batch, 4) for case in shape_cases(spec_from_manifest(toy_artifact.manifest).dims)]

    said = cli("validate", toy_artifact.path, "--backend", "torch", "--save-results", "both.json", "--json")
    assert said.code == 0
    assert set(RunResults.load("both.json").keys()) == {"onnxruntime", "torch"}
    assert "engines" in {check["kind"] for check in said.json["checks"]}


@pytest.mark.parametrize("target", ["file/outputs.json", "."])
def test_results_that_cannot_be_kept_are_one_error(cli, toy_artifact, target):
    Path("file").write_text("no folder")
    said = cli("validate", toy_artifact.path, "--save-results", target)
    assert (said.code, said.out) == (1, "")
    assert f"Cannot write {target}" in said.err


@pytest.mark.parametrize("name", ["pair", "embedding"])
def test_models_without_images_validate(cli, pair_artifact, embedding_artifact, name):
    said = cli("validate", {"pair": pair_artifact, "embedding": embedding_artifact}[name].path)
    assert said.code == 0
    _, table = parts(said)
    kinds = {line.split()[1] for line in table[1:-1] if not line.startswith(("note", " "))}
    assert {"shape", "values", "batch", "preprocess"} <= kinds
    assert any(line.startswith("decoded results") for line in table) == (name == "pair")


def test_self_test_prints_both_rates(cli, toy_artifact):
    said = cli("validate", toy_artifact.path, "--self-test")
    assert said.code == 0
    assert re.fullmatch(
        r"faults caught (\d+) of \1, in \d+ places; false alarms 0 of \d+; onnxruntime \(cpu\), \d+ s", said.lines[-1]
    )
    assert any(line.startswith("graph") and "channels swapped" in line and line.endswith("ok") for line in said.lines)
    assert any(line.startswith("not in this artifact: ") and "mask ignored" in line for line in said.lines)
    assert "planting faults" in said.err


def test_self_test_as_json(cli, toy_artifact):
    said = cli("validate", toy_artifact.path, "--self-test", "--json")
    document = said.json["self_test"]
    assert said.code == 0
    assert document["faults"] == document["caught"] >= 25
    assert (document["clean"] >= 40, document["false_alarms"]) == (True, 0)
    assert document["faults"] == sum(detail["applies"] for detail in document["details"])
    assert document["clean"] == sum(variant["applies"] for variant in document["variants"])
    json.dumps(said.json, allow_nan=False)


def test_a_self_test_that_finds_a_hole_exits_4(cli, toy_artifact, monkeypatch):
    """A decode that is not replayed is a hole, and the self-test has to find it."""

    replay = GoldenSamples.replay
    monkeypatch.setattr(
        GoldenSamples, "replay", lambda self, decode: [c for c in replay(self, decode) if c.kind != "decode"]
    )
    said = cli("validate", toy_artifact.path, "--self-test")
    assert said.code == 4
    assert any("class shift" in line and line.endswith("MISSED") for line in said.lines)
    assert said.lines[-1].startswith("faults caught")
