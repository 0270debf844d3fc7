"""``convkit inspect``: what it shows of artifacts and files, in words and as JSON, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from support.graphs import make_model
from support.mutants import resealed

from convkit import Artifact
from convkit.cli import execute


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = execute(["inspect", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("DeformConv", ["c", "v", "o"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    constants = {"w": np.ones((4, 3, 1, 1), np.float32), "v": np.ones((2, 4, 3, 3), np.float32)}
    inputs = {"x": ("n", 3, "height", 8), "o": ("n", 18, "height", 8)}
    model = make_model(nodes, inputs, {"y": ("n", 2, "height", 8)}, constants)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


class TestArtifact:
    def test_shows_where_it_comes_from_and_what_was_proved(
        self, toy_artifact: Artifact, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capsys, toy_artifact.path)
        assert (code, err) == (0, "")
        lines = [line.split(maxsplit=1) for line in out.splitlines() if line]
        table = {line[0]: line[1] for line in reversed(lines) if len(line) == 2}
        assert out.splitlines()[0] == str(toy_artifact.path)
        assert out.splitlines()[1] == toy_artifact.manifest["verdict"]["headline"]
        assert table["adapter"].startswith("toy (")
        assert table["model"] == "toy_1, form logits, fp32"
        assert table["shapes"] == "batch=1:1:4, height=32, width=32"
        assert table["classes"] == "4: class 0, class 1, class 2, class 3"
        assert table["weights"].endswith(toy_artifact.manifest["weights"]["sha256"][:12])
        assert table["patches"].startswith("toy.tuple x1")
        assert table["input"] == "images  float32  batch x 3 x 32 x 32"
        assert table["output"] == "logits  float32  batch x 4"
        assert "batch=1 (a multiply-add is two)" in out

    def test_json_holds_the_manifest_and_the_whole_graph(
        self, toy_artifact: Artifact, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, _ = run(capsys, toy_artifact.path, "--json")
        document = json.loads(out)
        assert code == 0
        assert document["manifest"] == toy_artifact.manifest
        assert document["graph"]["sizes"] == {"batch": 1}
        assert len(document["graph"]["costs"]) == 3
        assert document["tensorrt_plugins"] == []

    def test_one_of_a_folder_of_weights(
        self, toy_artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(toy_artifact.path, copy)
        files = dict.fromkeys(("config.json", "part-1.safetensors"), "0" * 64)
        resealed(copy, lambda document: document.update(weights={"file": "folder", "bytes": 2048, "files": files}))
        code, out, err = run(capsys, copy)
        assert (code, err) == (0, "")
        assert re.search(r"weights +folder, .*B, 2 files", out), out

    def test_one_that_was_tampered_with_is_not_shown(
        self, toy_artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = tmp_path / "copy"
        shutil.copytree(toy_artifact.path, copy)
        with (copy / "model.onnx").open("ab") as stream:
            stream.write(b"\0")
        code, out, err = run(capsys, copy)
        assert (code, out) == (4, "")
        assert "not the file that was proved" in err
        assert "hint:" in err

    def test_a_rejected_one_says_so(
        self, toy_weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from support.plugins import registered
        from support.toy import ToyPlugin

        from convkit import convert
        from convkit.errors import ProofFailedError

        with registered(ToyPlugin(fault=lambda logits: logits * 1.01)), pytest.raises(ProofFailedError):
            convert("toy", weights=toy_weights_file, output=tmp_path / "toy")
        code, out, _ = run(capsys, tmp_path / "toy.rejected")
        assert code == 0
        assert out.splitlines()[1].startswith("NOT proved")


class TestFile:
    def test_shows_the_graph_and_that_nothing_is_proved(
        self, onnx_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, _ = run(capsys, onnx_file, "--shape", "height=16", "--shape", "n=2")
        assert code == 0
        assert "a bare graph, without a proof" in out
        convolution = 2 * (2 * 4 * 16 * 8) * 3
        deformable = 2 * (2 * 2 * 16 * 8) * 36 + 7 * (2 * 16 * 8) * 9 * 4
        total = convolution + deformable
        assert f"{total / 1e3:.3g} kFLOP in 2 nodes, n=2, height=16" in out
        rows = [line.split() for line in out.splitlines()]
        assert ["DeformConv", "1", f"{deformable / 1e3:.3g}", "kFLOP", f"{deformable / total:.1%}"] in rows
        assert rows[-2][0] == "second"
        assert rows[-1][0] == "first"

    def test_names_the_tensorrt_plugin_that_an_operator_needs(
        self, onnx_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, out, _ = run(capsys, onnx_file)
        (line,) = [line for line in out.splitlines() if line.startswith("TensorRT")]
        assert "DeformConv x1: plugin ModulatedDeformConv2d version 2, shipped with TensorRT" in line
        (use,) = json.loads(run(capsys, onnx_file, "--json")[1])["tensorrt_plugins"]
        assert (use["operator"], use["nodes"], use["plugin"]["plugin"]) == ("DeformConv", 1, "ModulatedDeformConv2d")

    def test_names_operators_that_no_plugin_serves(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tensors = [helper.make_tensor_value_info(name, 1, [1, 2, 4, 4]) for name in "xy"]
        nodes = [
            helper.make_node("DCNv2", ["x"], ["m"]),
            helper.make_node("Warp", ["m"], ["y"], domain="own"),
        ]
        model = helper.make_model(helper.make_graph(nodes, "graph", tensors[:1], tensors[1:]))
        onnx.save(model, tmp_path / "model.onnx")
        uses = json.loads(run(capsys, tmp_path / "model.onnx", "--json")[1])["tensorrt_plugins"]
        assert uses == [{"operator": name, "nodes": 1, "plugin": None} for name in ("DCNv2", "own::Warp")]
        assert "DCNv2 x1: no layer, and no plugin known that serves it" in run(capsys, tmp_path / "model.onnx")[1]

    def test_asks_for_the_sizes_that_it_misses(self, onnx_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capsys, onnx_file)
        assert code == 0
        assert "2 nodes; give --shape height=N to count their arithmetic" in out
        assert "FLOP" not in out

    def test_shows_as_many_nodes_as_wanted(self, onnx_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capsys, onnx_file, "--shape", "height=16", "--nodes", "1")
        assert "second" in out
        assert "first" not in out
        assert "costliest" not in run(capsys, onnx_file, "--shape", "height=16", "--nodes", "0")[1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("height", "not a size"),
            ("height=0", "not a size"),
            ("height=-4", "not a size"),
            ("height=1:2:3", "not a size"),
            ("=4", "not a size"),
            ("hight=4", "Did you mean 'height'?"),
        ],
    )
    def test_a_wrong_size_is_refused(
        self, onnx_file: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = run(capsys, onnx_file, "--shape", text)
        assert (code, out) == (2, "")
        assert message in err

    def test_external_weights_are_read(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        weights = np.ones((100, 100), np.float32)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        model = make_model(nodes, {"x": (1, 100)}, {"y": (1, 100)}, {"w": weights})
        path = tmp_path / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
        assert "10 000, 40 kB (float32)" in run(capsys, path)[1]
        (tmp_path / "model.data").unlink()
        code, out, err = run(capsys, path)
        assert (code, out) == (1, "")
        assert "external weights" in err
        assert "hint: Keep the data file beside" in err


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "The file is empty"),
            (b"<!DOCTYPE html><html></html>", "web page"),
            (b"ftrt" + bytes(200), "TensorRT engine"),
            (b"PK\x03\x04" + bytes(200), "PyTorch checkpoint"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            (b"\xff" * 64, "cut off"),
        ],
    )
    def test_what_is_no_model_is_named(
        self, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        code, out, err = run(capsys, path)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {path}")
        assert message in err.splitlines()[1]
        assert "Traceback" not in err

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
    def test_a_truncated_model(
        self, onnx_file: Path, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = onnx_file.read_bytes()
        path = tmp_path / "cut.onnx"
        path.write_bytes(data[: int(len(data) * share)])
        code, out, err = run(capsys, path)
        assert (code, out) == (1, "")
        assert "Traceback" not in err
        assert "hint:" in err

    @pytest.mark.parametrize("name", ["nowhere", "nowhere.onnx"])
    def test_what_does_not_exist(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, tmp_path / name)
        assert (code, out) == (1, "")
        assert f"There is no file or artifact {tmp_path / name}." in err

    def test_a_directory_that_is_no_artifact(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = run(capsys, tmp_path)
        assert (code, out) == (1, "")
        assert "not a complete artifact" in err


class TestLayout:
    @pytest.mark.parametrize("columns", [44, 60, 100])
    def test_a_narrow_terminal_breaks_lines_and_loses_nothing(
        self, columns: int, onnx_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, wide, _ = run(capsys, onnx_file, "--shape", "height=16")
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        _, colourful, _ = run(capsys, onnx_file, "--shape", "height=16")
        narrow = re.sub(r"\x1b\[[0-9;]*m", "", colourful)
        assert narrow != colourful
        assert max(map(len, narrow.splitlines())) <= columns
        fields = [line for line in wide.splitlines() if line.startswith(("format", "input", "output ", "TensorRT"))]
        assert len(fields) == 5
        for field in fields:
            assert "".join(field.split()) in "".join(narrow.split())
        rows = {tuple(line.split()) for line in wide.splitlines() if line.startswith(("Conv", "DeformConv"))}
        assert len(rows) == 2
        assert rows <= {tuple(line.split()) for line in narrow.splitlines()}

    def test_names_are_shown_letter_by_letter(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        node = helper.make_node("MatMul", ["[red]:car:[/red]", "w"], ["y"], name="[b]:key:[/b]")
        model = make_model([node], {"[red]:car:[/red]": (1, 4)}, {"y": (1, 4)}, {"w": np.ones((4, 4), np.float32)})
        path = tmp_path / "[i].onnx"
        onnx.save(model, path)
        _, out, _ = run(capsys, path)
        for name in ("[red]:car:[/red]", "[b]:key:[/b]", "[i].onnx"):
            assert name in out

    def test_a_pipe_gets_plain_unbroken_lines(self, onnx_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, out, _ = run(capsys, onnx_file)
        assert "\x1b" not in out
        assert all(line == line.rstrip() for line in out.splitlines())
        assert max(map(len, out.splitlines())) > 200
