"""``convkit check``: its rungs, its exit codes, its JSON, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model, node

RNG = np.random.default_rng(1)


@pytest.fixture
def conv(tmp_path: Path) -> Path:
    """A convolution with a batch of any size."""
    kernel = {"k": RNG.standard_normal((4, 3, 3, 3), np.float32)}
    nodes = [node("Conv", ["x", "k"], ["c"], name="conv"), node("Relu", ["c"], ["y"], name="relu")]
    path = tmp_path / "conv.onnx"
    onnx.save(make_model(nodes, {"x": ("batch", 3, 8, 8)}, {"y": ("batch", 4, 6, 6)}, kernel), path)
    return path


@pytest.fixture
def triangle(tmp_path: Path) -> Path:
    """A model that NVIDIA's parser builds wrongly."""
    nodes = [node("Relu", ["x"], ["r"], name="relu"), node("Trilu", ["r"], ["y"], name="triangle")]
    path = tmp_path / "triangle.onnx"
    onnx.save(make_model(nodes, {"x": (6, 6)}, {"y": (6, 6)}), path)
    return path


def save(path: Path, operator: str, inputs: dict[str, tuple[int, list[object]]], **attributes: object) -> Path:
    """Write a model of one node."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    graph = helper.make_graph(
        [node(operator, list(inputs), ["y"], name="it", **attributes)], "g", values, [onnx.ValueInfoProto(name="y")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def test_a_model_that_is_understood_and_built(cli, conv):
    said = cli("check", conv, "--shape", "batch=1:2:4", "--json", "--quiet")
    assert said.code == 0
    ladder = said.json["ladder"]
    assert [(name, rung["status"]) for name, rung in ladder.items()] == [
        ("accepted", "passed"),
        ("understood", "passed"),
        ("built", "passed"),
        ("ran", "pending"),
    ]
    assert ladder["accepted"]["layers"] == 2
    assert ladder["accepted"]["types"] == {"FLOAT": 2}
    assert ladder["understood"]["shapes"] == [{"x": [size, 3, 8, 8]} for size in (2, 1, 4)]
    assert ladder["understood"]["outputs"]["y"]["passed"]
    assert list(ladder["built"]["targets"]) == ["sm80", "sm86", "sm89", "sm120"]
    assert ladder["built"]["bytes"] > 0
    assert said.err == ""


def test_the_table(cli, conv):
    said = cli("check", conv, "--shape", "batch=2", "--target", "8.6")
    assert said.code == 0
    assert [line.split()[:2] for line in said.lines] == [
        ["accepted", "passed"],
        ["understood", "passed"],
        ["built", "passed"],
        ["ran", "pending"],
    ]
    assert "sm86" in said.lines[2]
    assert "nothing was run and nothing measured" in said.lines[3]
    assert "parse" in said.err
    assert "build for sm86" in said.err


def test_no_speed_is_ever_printed(cli, conv):
    said = cli("check", conv, "--shape", "batch=2", "--target", "sm86", "--json")
    assert not any(word in said.out for word in ("ms", "fps", "latency", "seconds"))


def test_where_the_two_part(cli, triangle):
    said = cli("check", triangle, "--target", "sm86", "--json")
    assert said.code == 4
    rung = said.json["ladder"]["understood"]
    parting = rung["parting"]
    assert rung["status"] == "failed"
    assert (parting["node"], parting["operator"], parting["name"]) == (1, "Trilu", "triangle")
    assert sorted([parting["expected"], parting["actual"]])[0] == 0 != parting["error"]
    assert "SELECT" in parting["layer"]
    assert said.json["ladder"]["built"]["status"] == "passed"


def test_the_same_seed_gives_the_same_values(cli, triangle):
    def expected(*words: str) -> float:
        ladder = cli("check", triangle, "--target", "sm86", "--json", *words).json["ladder"]
        return ladder["understood"]["parting"]["expected"]

    assert expected("--seed", "5") == expected("--seed", "5") != expected("--seed", "6")


def test_a_model_that_is_not_accepted(cli, tmp_path):
    path = save(tmp_path / "det.onnx", "Det", {"x": (TensorProto.FLOAT, [3, 3])})
    said = cli("check", path, "--json")
    assert said.code == 3
    ladder = said.json["ladder"]
    assert ladder["accepted"]["errors"][0]["operator"] == "Det"
    assert [rung["status"] for rung in ladder.values()] == ["failed", "pending", "pending", "pending"]
    assert "node 0 Det 'it'" in cli("check", path).out


def test_a_target_that_cannot_be_built_for(cli, tmp_path):
    kernel = numpy_helper.from_array(np.ones((4, 4), np.float32), "k")
    path = save(
        tmp_path / "product.onnx", "MatMul", {"x": (TensorProto.FLOAT, [2, 4]), "k": (TensorProto.FLOAT, [4, 4])}
    )
    model = onnx.load(path)
    del model.graph.input[1]
    model.graph.initializer.append(kernel)
    onnx.save(model, path)
    said = cli("check", path, "--target", "sm75,sm86", "--json")
    assert said.code == 3
    built = said.json["ladder"]["built"]
    assert said.json["ladder"]["understood"]["status"] == "passed"
    assert built["status"] == "failed"
    assert "sm75" in built["summary"]
    assert "It builds for sm86." in built["summary"]
    assert built["targets"]["sm86"] == ""
    assert "FP32 GEMM" in built["targets"]["sm75"]
    assert "bytes" not in built


def test_what_has_no_replay_is_neither_passed_nor_failed(cli, tmp_path):
    path = save(tmp_path / "noise.onnx", "RandomUniformLike", {"x": (TensorProto.FLOAT, [3, 3])})
    said = cli("check", path, "--target", "sm86", "--json")
    rung = said.json["ladder"]["understood"]
    assert said.code == 0
    assert rung["status"] == "not replayed"
    assert "FILL RANDOM_UNIFORM" in rung["not_replayed"][0]


class TestInputs:
    def test_values_from_a_file_give_shapes_too(self, cli, conv, tmp_path):
        x = RNG.standard_normal((3, 3, 8, 8), np.float32)
        np.savez(tmp_path / "values.npz", x=x)
        said = cli("check", conv, "--target", "sm86", "--inputs", tmp_path / "values.npz", "--json")
        assert said.code == 0
        assert said.json["ladder"]["understood"]["shapes"] == [{"x": [3, 3, 8, 8]}]

    def test_values_decide_what_is_compared(self, cli, triangle, tmp_path):
        np.savez(tmp_path / "values.npz", x=np.diag(np.arange(6, dtype=np.float32)))
        said = cli("check", triangle, "--target", "sm86", "--inputs", tmp_path / "values.npz")
        assert said.code == 0  # nothing stands above the diagonal, so the fault does not show

    def test_a_shape_as_an_input(self, cli, tmp_path):
        inputs = {"x": (TensorProto.FLOAT, [2, 6]), "shape": (TensorProto.INT64, [2])}
        path = save(tmp_path / "reshape.onnx", "Reshape", inputs)
        np.savez(tmp_path / "values.npz", x=np.ones((2, 6), np.float32), shape=np.array([3, 4]))
        said = cli("check", path, "--target", "sm86", "--inputs", tmp_path / "values.npz", "--json")
        assert said.code == 0, said.out
        assert said.json["ladder"]["built"]["status"] == "passed"

    @pytest.mark.parametrize(
        ("arrays", "says"),
        [
            ({"z": np.ones((1, 3, 8, 8), np.float32)}, "no input 'z'"),
            ({}, "lacks the input 'x'"),
            ({"x": np.ones((1, 3, 8, 8))}, "float64"),
            ({"x": np.ones((1, 4, 8, 8), np.float32)}, "[1, 4, 8, 8]"),
            ({"x": np.ones((3, 8, 8), np.float32)}, "[3, 8, 8]"),
        ],
    )
    def test_values_that_do_not_fit(self, cli, conv, tmp_path, arrays, says):
        np.savez(tmp_path / "values.npz", **arrays)
        said = cli("check", conv, "--inputs", tmp_path / "values.npz")
        assert said.code == 2
        assert says in said.err

    @pytest.mark.parametrize("data", [b"", b"text", None])
    def test_a_file_that_is_no_archive(self, cli, conv, tmp_path, data):
        path = tmp_path / "values.npz"
        if data is not None:
            path.write_bytes(data)
        said = cli("check", conv, "--inputs", path)
        assert said.code == 2
        assert "cannot be read" in said.err

    def test_one_array_without_a_name(self, cli, conv, tmp_path):
        np.save(tmp_path / "x.npy", np.ones(3))
        said = cli("check", conv, "--inputs", tmp_path / "x.npy")
        assert said.code == 2
        assert "numpy.savez" in said.err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "--shape batch=1:1:8"),
        (("--shape", "batch=4:2:8"), 2, "range 4:2:8"),
        (("--shape", "batch=0:2:8"), 2, "range 0:2:8"),
        (("--shape", "depth=1"), 2, "no dimension 'depth'"),
        (("--shape", "batch=1", "--target", "sm90"), 3, "sm75, sm80, sm86, sm89, sm120, sm121"),
        (("--shape", "batch=1", "--target", "hopper"), 2, "not a compute capability"),
        (("--shape", "batch=1", "--backend", "onnxruntime"), 2, "no TensorRT backend"),
        (("--shape", "batch=1", "--backend", "tensorrt"), 5, "TensorRT-RTX (tensorrt-rtx) needs no GPU to build"),
    ],
)
def test_what_is_refused_before_anything_is_built(cli, conv, words, code, says):
    said = cli("check", conv, *words)
    assert said.code == code
    assert says in said.err
    assert said.out == ""
    assert "build" not in said.err.split("error:")[0]


@pytest.mark.parametrize("data", [None, b"", b"text", b"\x00" * 99])
def test_a_file_that_is_no_model(cli, tmp_path, data):
    path = tmp_path / "model.onnx"
    if data is not None:
        path.write_bytes(data)
    said = cli("check", path)
    assert said.code == 1
    assert said.err.startswith("error:")


def test_an_artifact(cli, toy_artifact):
    said = cli("check", toy_artifact.path, "--target", "sm86", "--shape", "batch=1:2:4", "--json")
    assert said.code == 0, said.out + said.err
    assert said.json["model"] == str(toy_artifact.path)
    assert said.json["ladder"]["understood"]["status"] == "passed"


def test_a_model_with_16_bit_tensors_shows_how_many_layers_are_so(cli, tmp_path):
    nodes = [
        node("Cast", ["x"], ["n"], name="in", to=TensorProto.FLOAT16),
        node("Conv", ["n", "k"], ["c"], name="conv"),
        node("Cast", ["c"], ["w"], name="out", to=TensorProto.FLOAT),
        node("Relu", ["w"], ["y"], name="relu"),
    ]
    kernel = {"k": RNG.standard_normal((4, 3, 3, 3)).astype(np.float16)}
    path = tmp_path / "mixed.onnx"
    onnx.save(make_model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 4, 6, 6)}, kernel), path)
    said = cli("check", path, "--target", "sm86", "--quiet")
    assert said.code == 0
    assert "fp16 asked: 1 of 2 layers fp16, 1 fp32 by policy" in " ".join(said.out.split())
    kept = cli("check", path, "--target", "sm86", "--json", "--quiet").json["ladder"]["built"]["precision"]["kept"]
    assert [(layer["node"], layer["reason"]) for layer in kept] == [("relu", "the graph has it in float32")]


def test_what_helps_is_the_last_line(cli, tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    path = tmp_path / "product.onnx"
    weights = {"w": RNG.standard_normal((8, 4), np.float32)}
    onnx.save(make_model(nodes, {"x": (2, 8)}, {"y": (2, 4)}, weights), path)
    said = cli("check", path, "--target", "sm75,sm86", "--quiet")
    assert said.code == 3
    assert "leave sm75 out (--target sm86)" in said.lines[-1]
