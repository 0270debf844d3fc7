"""``convkit diff``: the groups it prints, its exit code, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.graphs import make_model

from convkit import Artifact
from convkit.cli import execute
from convkit.graph import DropIdentity, apply_rewrite


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = execute(["diff", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def save(folder: Path, name: str, layers: int = 3, scale: float = 1.0, prefix: str = "") -> Path:
    """Write x -> (Mul -> Identity) * layers -> y."""
    nodes = []
    tensor = "x"
    for index in range(layers):
        nodes.append(helper.make_node("Mul", [tensor, f"w{index}"], [f"{prefix}m{index}"], name=f"{prefix}mul{index}"))
        output = "y" if index == layers - 1 else f"{prefix}i{index}"
        nodes.append(helper.make_node("Identity", [f"{prefix}m{index}"], [output], name=f"{prefix}identity{index}"))
        tensor = output
    constants = {f"w{index}": np.full(4, index + scale, np.float32) for index in range(layers)}
    path = folder / f"{name}.onnx"
    onnx.save(make_model(nodes, {"x": (2, 4)}, {"y": (2, 4)}, constants), path)
    return path


@pytest.fixture
def rewritten(tmp_path: Path) -> tuple[Path, Path]:
    """A graph, and the same after a rewrite whose record it carries."""
    before = save(tmp_path, "before")
    model, record = apply_rewrite(onnx.load(before), DropIdentity())
    entry = {"name": record.name, "removed": record.removed, "added": record.added, "changed": record.changed}
    model.metadata_props.add(key="convkit.rewrites", value=json.dumps([entry]))
    onnx.save(model, tmp_path / "after.onnx")
    return before, tmp_path / "after.onnx"


def test_changes_stand_below_their_rewrite(rewritten: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *rewritten)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    start = lines.index("graph.drop-identity  (4 nodes)")
    assert [line.split()[:3] for line in lines[start + 1 : start + 5]] == [
        ["-", "identity0", "(Identity)"],
        ["~", "mul1", "(Mul)"],
        ["-", "identity1", "(Identity)"],
        ["~", "mul2", "(Mul)"],
    ]
    assert "A: identity0 -> mul0" in lines[start + 2]
    assert "not explained" not in out
    assert ["Identity", "3", "1", "-2"] in [line.split() for line in lines]
    assert lines[-2:] == ["2 nodes the same, 2 removed, 2 changed", "3 weights the same"]


def test_differences_have_no_exit_code_of_their_own_unless_asked(
    rewritten: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = rewritten
    assert run(capsys, before, after)[0] == 0
    assert run(capsys, before, after, "--exit-code")[0] == 1
    assert run(capsys, before, after, "--exit-code", "--json")[0] == 1
    assert run(capsys, before, before, "--exit-code")[0] == 0


def test_graphs_without_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, save(tmp_path, "a"), save(tmp_path, "b"))
    assert out.splitlines()[-1] == "The graphs compute the same: they differ in nothing but names."


def test_what_no_rewrite_explains_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, save(tmp_path, "a"), save(tmp_path, "b", scale=1.5))
    assert "not explained by a rewrite  (3 nodes)" in out
    assert "B: values differ by up to 0.5" in out
    assert out.splitlines()[-1] == "0 weights the same, 3 changed; --all lists them"


def test_long_lists_are_cut_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = save(tmp_path, "a", layers=20), save(tmp_path, "b", layers=20, scale=3)
    _, out, _ = run(capsys, *files)
    assert "and 8 more (--all lists them)" in out
    assert "mul12" not in out
    _, out, _ = run(capsys, *files, "--all")
    assert "more (" not in out
    assert "mul19" in out
    assert "w19" in out


def test_graphs_that_share_no_names_are_compared_by_structure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, save(tmp_path, "a"), save(tmp_path, "b", layers=4, prefix="other_"))
    assert "paired by operator, weight shapes and order" in out.splitlines()[-1]
    assert ", 2 added" in out.splitlines()[-3]


def test_json_says_everything(rewritten: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, *rewritten, "--json")
    document = json.loads(out)
    assert code == 0
    assert (document["a"], document["b"]) == tuple(map(str, rewritten))
    assert document["identical"] is False
    assert {(c["kind"], c["name"], c["rewrite"]) for c in document["nodes"]} == {
        ("removed", "identity0", "graph.drop-identity"),
        ("removed", "identity1", "graph.drop-identity"),
        ("changed", "mul1", "graph.drop-identity"),
        ("changed", "mul2", "graph.drop-identity"),
    }
    assert document["operators"] == {"Identity": [3, 1]}


def test_an_artifact_is_its_graph(toy_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, toy_artifact.path, toy_artifact.model, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["identical"] is True
    assert (document["a"], document["b"]) == (str(toy_artifact.path), str(toy_artifact.model))
    assert document["same_nodes"] == 6


def test_what_cannot_be_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, save(tmp_path, "a"), tmp_path / "nowhere")
    assert (code, out) == (1, "")
    assert "There is no file or artifact" in err
