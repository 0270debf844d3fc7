"""``convkit bisect``: the table, the JSON, the list of nodes to keep, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from convkit.artifact import Artifact
from convkit.files import sha256
from convkit.graph import apply_rewrite
from convkit.graph.precision import To16Bit, read_keep_file


@pytest.fixture
def wrong(toy_artifact, tmp_path):
    """The toy's graph with one weight off by a tenth, as a file, and the node that reads it."""
    model = onnx.load(str(toy_artifact.model))
    node = next(node for node in model.graph.node if node.op_type == "Gemm" or "head" in node.name)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    tensor.CopyFrom(numpy_helper.from_array(np.float32(1.1) * numpy_helper.to_array(tensor), tensor.name))
    path = tmp_path / "wrong.onnx"
    onnx.save(model, str(path))
    return path, node.name


def test_the_table_ranks_what_fp16_would_make_of_the_graph(cli, toy_artifact):
    said = cli("bisect", toy_artifact.path)
    assert said.code == 0
    assert said.lines[0] == "torch:fp16 against float64, 2 samples"
    header = next(line for line in said.lines if line.startswith("node"))
    assert header.split()[:5] == ["node", "operator", "module", "type", "local"]
    rows = said.lines[said.lines.index(header) + 1 : said.lines.index("", said.lines.index(header))]
    errors = [float(row.split()[4]) for row in rows if row.split()[3] == "float16"]
    assert len(errors) >= 3
    assert errors == sorted(errors, reverse=True)
    assert "No node errs more by itself than its type explains." in said.lines
    assert "running nodes on sample 1 of 2" in said.err
    assert cli("bisect", toy_artifact.path, "-q", "--nodes", 1).err == ""


def test_the_node_that_is_wrong_is_named_and_written_for_review(cli, toy_artifact, wrong, tmp_path):
    path, name = wrong
    said = cli("bisect", toy_artifact.path, "--engine", f"onnxruntime:{path}", "-o", "keep.txt", "--samples", 1)
    assert said.code == 0
    assert said.lines[0].startswith(f"onnxruntime:{path} against float64, judged by torch:fp32, 1 sample")
    assert f"1 tensor off by more than is explained; the first: {name}" in said.lines
    assert "keep in float32" not in said.lines
    assert "float32 already: a backend that computes these more exactly helps, --keep-fp32 does not" in said.lines
    model = onnx.load(str(toy_artifact.model))
    assert read_keep_file(tmp_path / "keep.txt", model) == {name}
    assert "by itself (relative)" in (tmp_path / "keep.txt").read_text(encoding="utf-8")
    apply_rewrite(model, To16Bit("fp16", read_keep_file(tmp_path / "keep.txt", model)))


def test_json_has_every_node_of_both_engines(cli, toy_artifact, wrong):
    path, name = wrong
    said = cli("bisect", toy_artifact.path, "--engine", "onnxruntime", "--engine", f"torch:{path}", "--json")
    found = said.json
    assert found["runners"] == ["onnxruntime", f"torch:{path}"]
    assert found["first_parting"] == name
    assert list(found["keep"]) == [name]
    assert found["search"] is None
    row = next(row for row in found["nodes"] if row["node"] == name)
    assert row["local"][1]["rel_l2"] > 0.01
    assert row["local"][0]["rel_l2"] < 1e-6
    assert all(len(row["local"]) == 2 for row in found["nodes"])
    json.dumps(found, allow_nan=False)


def test_the_graph_of_an_engine_is_run_where_the_artifact_has_one(cli, toy_artifact, tmp_path):
    artifact = Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "copy"))
    folder = artifact.path / "engines" / "fake"
    folder.mkdir(parents=True)
    typed, _ = apply_rewrite(onnx.load(str(artifact.model)), To16Bit("bf16"))
    onnx.save(typed, str(folder / "model.onnx"))
    (folder / "model.plan").write_bytes(b"plan")
    files = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
        for name in ("model.onnx", "model.plan")
    }
    graph = {"model.onnx": artifact.manifest["files"]["model.onnx"]["sha256"]}
    description = {
        "plan": "model.plan", "files": files, "artifact": graph, "backend": "fake", "targets": [], "version": "1",
        "precision": "bf16", "options": {},
    }  # fmt: skip
    (folder / "engine.json").write_text(json.dumps(description))
    (folder / "verdict.json").write_text(json.dumps({"ladder": {}}))
    said = cli("bisect", artifact.path, "--json")
    assert said.json["runners"] == ["torch:fake"]
    assert {row["dtype"] for row in said.json["nodes"]} >= {"bfloat16"}
    (folder / "model.onnx").write_bytes(b"another")
    said = cli("bisect", artifact.path, "--engine", "torch:fake")
    assert said.code == 4
    assert "is not the file that was built" in said.err


def test_a_search_keeps_the_fewest_nodes(cli, toy_artifact, tmp_path):
    said = cli("bisect", toy_artifact.path, "--search", "bf16", "--score", "3e-5", "--output", "keep.txt")
    assert said.code == 0
    summary = next(line for line in said.lines if "none of which can be left out, by" in line)
    kept = read_keep_file(tmp_path / "keep.txt", onnx.load(str(toy_artifact.model)))
    assert summary.startswith(f"{len(kept)} node")
    assert summary in (tmp_path / "keep.txt").read_text(encoding="utf-8")
    assert any(line.endswith("3e-05 is allowed") for line in said.lines)
    found = cli("bisect", toy_artifact.path, "--search", "bf16", "--score", "0.5", "--json").json
    assert found["keep"] == {}
    assert found["search"]["minimal"] is True
    assert [trial["kept"] for trial in found["search"]["trials"]] == [0]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--engine", "nowhere"], 2, "There is no backend 'nowhere'"),
        (["--engine", "torch:fp61"], 2, "There is no graph 'fp61' to run."),
        (["--engine", "tensorrt-rtx"], 2, "not ONNX graphs"),
        (["--engine", "torch", "--engine", "torch", "--engine", "torch"], 2, "3 runners"),
        (["--search", "fp16", "--engine", "torch"], 2, "exclude each other"),
        (["--search", "int8"], 2, "There is no search in int8"),
        (["--search", "fp32"], 2, "There is no search in fp32"),
        (["--output", "file/keep.txt"], 1, "Cannot write"),
        (["--engine", "torch:file"], 1, "cannot be read as an ONNX model"),
    ],
)
def test_bad_questions_are_refused(cli, toy_artifact, tmp_path, words, code, text):
    (tmp_path / "file").write_bytes(b"no model")
    said = cli("bisect", toy_artifact.path, *words)
    assert said.code == code
    assert text in said.err
    assert said.err.count("hint:") == 1


def test_what_is_no_artifact_is_refused(cli, tmp_path):
    said = cli("bisect", tmp_path)
    assert said.code == 1
