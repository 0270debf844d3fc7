"""``convkit validate``: the table or JSON on stdout, and the exit code is the verdict."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from convkit.artifact import publish, staging
from convkit.artifact._directory import MANIFEST


def test_the_table_is_the_result_and_the_steps_are_talk(cli, toy_artifact):
    said = cli("validate", toy_artifact.path)
    assert said.code == 0
    assert said.lines[0].split() == ["output", "check", "shapes", "worst", "limit"]
    assert said.lines[-1].startswith("proved: 13 checks passed on onnxruntime (cpu); reference stored PyTorch float64")
    kinds = {" ".join(line.split()[:2]) for line in said.lines[1:-1]}
    assert {"logits shape", "logits values", "logits batch", "images preprocess"} <= kinds
    assert "checking hashes" in said.err
    assert cli("validate", toy_artifact.path, "-q").err == ""


def test_json_is_the_whole_verdict(cli, toy_artifact):
    said = cli("validate", toy_artifact.path, "--json")
    assert said.code == 0
    assert said.json["passed"] is True
    assert len(said.json["checks"]) == 13
    json.dumps(said.json, allow_nan=False)


def test_verbose_shows_every_check(cli, toy_artifact):
    short, long = (cli("validate", toy_artifact.path, *flags).lines for flags in ((), ("-v",)))
    assert len(long) > len(short)


def test_a_graph_that_computes_something_else_exits_4(cli, toy_artifact, tmp_path):
    import onnx
    from support.faults import plant

    from convkit.artifact import spec_from_manifest
    from convkit.proof import load_evidence, shape_cases

    spec = spec_from_manifest(toy_artifact.manifest)
    samples, _ = load_evidence(toy_artifact.path, spec.inputs[0])
    feed = samples.feed(shape_cases(spec.dims)[0])["images"]
    with staging(tmp_path / "spoilt") as folder:
        shutil.copytree(toy_artifact.path, folder, dirs_exist_ok=True)
        (folder / MANIFEST).unlink()
        model = plant(onnx.load(toy_artifact.model), "weight_scaled", feed)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        manifest = {key: value for key, value in toy_artifact.manifest.items() if key not in ("files", "seal")}
        publish(folder, tmp_path / "spoilt", manifest, overwrite=False)
    said = cli("validate", "spoilt")
    assert said.code == 4
    assert "FAIL" in said.out
    assert said.lines[-1].startswith("NOT proved")
    document = cli("validate", "spoilt", "--json")
    assert (document.code, document.json["passed"]) == (4, False)


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
