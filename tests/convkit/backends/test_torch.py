"""PyTorch as a backend: whole graphs, shapes on the host, precision, plugins' operators, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model, node, run_model
from support.plugins import registered

from convkit import hookimpl, load, validate
from convkit.backends import Engine, open_session
from convkit.backends.torch import Torch, session_in
from convkit.errors import ConversionError, EnvironmentProblem


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_same(model: onnx.ModelProto, folder: Path, **feeds: np.ndarray) -> None:
    expected = run_model(model, **feeds)
    found = open_session("torch", save(model, folder)).run(feeds)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_that_depend_on_the_input_are_followed(tmp_path, batch):
    """Flatten all but the batch by Shape, Gather, Concat, Reshape; sum over what Range and ConstantOfShape make."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Shape", ["x"], ["tail"], start=1),
        node("Size", ["tail"], ["axes"]),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        node("Unsqueeze", ["batch", "first"], ["row"]),
        node("Concat", ["row", "rest"], ["wanted"], axis=0),
        node("Reshape", ["x", "wanted"], ["flat"]),
        node("ReduceMax", ["wide"], ["many"], keepdims=0),
        node("Range", ["zero", "many", "one"], ["numbers"]),
        node("Cast", ["numbers"], ["weights"], to=TensorProto.FLOAT),
        node("Mul", ["flat", "weights"], ["weighted"]),
        node("ConstantOfShape", ["row"], ["bias"], value=numpy_helper.from_array(np.array([0.5], np.float32))),
        node("ReduceSum", ["weighted", "last"], ["sums"], keepdims=0),
        node("Add", ["sums", "bias"], ["y"]),
        node("Cast", ["axes"], ["n"], to=TensorProto.FLOAT),
    ]
    constants = {
        "zero": np.array(0), "one": np.array(1), "first": np.array([0]), "last": np.array([-1]), "rest": np.array([-1]),
        "wide": np.array([1, 24]),
    }  # fmt: skip
    model = make_model(nodes, {"x": ["b", 2, 3, 4]}, {"y": ["b"], "n": []}, constants)
    assert_same(model, tmp_path, x=random(batch, 2, 3, 4))


def test_results_of_several_outputs_and_of_comparisons(tmp_path):
    nodes = [
        node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        node("Split", ["x", "sizes"], ["c", "between", "d"], axis=1),
        node("TopK", ["x", "k"], ["values", "places"], axis=1),
        node("ArgMax", ["x"], ["top"], axis=1, keepdims=0),
        node("ArgMin", ["x"], ["low"], axis=0, select_last_index=1),
        *(node(op, ["a", "b"], [op.lower()]) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
        node("And", ["greater", "less"], ["and"]),
        node("Or", ["and", "greaterorequal"], ["or"]),
        node("Xor", ["or", "lessorequal"], ["xor"]),
        node("Not", ["xor"], ["not"]),
        node("IsNaN", ["a"], ["nan"]),
        node("IsInf", ["a"], ["inf"]),
        node("Div", ["places", "two"], ["half"]),
        node("Mod", ["places", "two"], ["odd"]),
    ]
    small = ["equal", "not", "nan", "inf", "half", "odd", "top", "low", "places"]
    nodes += [node("Cast", [name], [f"{name}_y"], to=TensorProto.FLOAT) for name in small]
    nodes += [node("CastLike", ["greater", "x"], ["greater_y"])]
    shapes: dict[str, list[Any]] = {f"{name}_y": [None] * 2 for name in [*small, "greater"]}
    shapes.update({"top_y": [None], "c": [3, 1], "d": [3, 3], "values": [3, 4]})
    constants = {"sizes": np.array([1, 2, 3]), "k": np.array([4]), "two": np.array(2)}
    model = make_model(nodes, {"x": [3, 6]}, shapes, constants)
    x = np.round(random(3, 6) * 2) / 2
    x[0, 0] = np.inf
    assert_same(model, tmp_path, x=x)


@pytest.mark.parametrize("largest", [0, 1])
def test_of_equal_values_topk_takes_the_one_that_comes_first(tmp_path, largest):
    nodes = [node("TopK", ["x", "k"], ["v", "i"], largest=largest), node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    model = make_model(nodes, {"x": [4, 50]}, {"v": [4, 9], "y": [4, 9]}, {"k": np.array([9])})
    x = np.random.default_rng(0).integers(-2, 3, (4, 50)).astype(np.float32)
    x[0, ::3] = -0.0
    right = np.argsort(-x if largest else x, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(open_session("torch", save(model, tmp_path)).run({"x": x})["y"], right)


HALF = {"fp16": "float16", "bf16": "bfloat16"}
NATIVE: dict[str, tuple[list[onnx.NodeProto], Callable[..., torch.Tensor]]] = {
    "convolution": ([node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
                    lambda x, w, b: torch.conv2d(x, w, b, padding=1)),
    "pointwise": ([node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["m"]), node("Add", ["m", "c"], ["y"])],
                  lambda x, w, b: x * torch.sigmoid(x) + torch.tensor(0.3, dtype=x.dtype)),
    "reduction": ([node("ReduceMean", ["x", "axes"], ["y"])], lambda x, w, b: x.mean((2, 3), keepdim=True)),
    "softmax": ([node("Softmax", ["x"], ["y"], axis=1)], lambda x, w, b: torch.softmax(x, 1)),
    "maximum": ([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3])], lambda x, w, b: torch.max_pool2d(x, 3, 1)),
}  # fmt: skip


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("name", NATIVE)
def test_sixteen_bits_on_the_cpu_are_those_of_pytorch(tmp_path, name, precision):
    """An operator computes in float32 and rounds once: within a unit of the last place of PyTorch's own kernels."""
    nodes, native = NATIVE[name]
    constants = {
        "w": random(4, 3, 3, 3, seed=1),
        "b": random(4, seed=2),
        "c": np.float32(0.3),
        "axes": np.array([2, 3]),
    }
    used = {name for step in nodes for name in step.input}
    model = make_model(nodes, {"x": [2, 3, 9, 7]}, {"y": [None] * 4}, {k: v for k, v in constants.items() if k in used})
    x, dtype = random(2, 3, 9, 7, seed=3), getattr(torch, HALF[precision])
    found = torch.from_numpy(session_in(save(model, tmp_path), HALF[precision]).run({"x": x})["y"])
    expected = native(*(torch.from_numpy(constant).to(dtype) for constant in (x, constants["w"], constants["b"])))
    assert torch.equal(found, found.to(dtype).float()), "a value that 16 bits cannot hold"
    unit = torch.finfo(dtype).eps
    assert ((found - expected.float()).abs() <= unit * expected.float().abs() + unit * 1e-3).all()
    assert not np.array_equal(found.numpy(), open_session("torch", tmp_path / "model.onnx").run({"x": x})["y"])


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_a_graph_of_16_bits_keeps_its_own_types_between_operators(tmp_path, dtype):
    """Casts at the edges, bfloat16 weights in the file, and float32 where the graph says so."""
    nodes = [
        node("Cast", ["x"], ["n"], to=dtype),
        node("Conv", ["n", "w"], ["c"]),
        node("Cast", ["c"], ["wide"], to=TensorProto.FLOAT),
        node("Mul", ["wide", "third"], ["y"]),
    ]
    constants = {"w": random(4, 3, 3, 3, seed=1), "third": np.float32(1 / 3)}
    typed = constants | {"w": constants["w"].astype(helper.tensor_dtype_to_np_dtype(dtype))}
    model = make_model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]}, typed, opset=22)
    x = random(1, 3, 8, 8)
    found = open_session("torch", save(model, tmp_path)).run({"x": x})["y"]
    narrow = torch.float16 if dtype == TensorProto.FLOAT16 else torch.bfloat16
    rounded = [torch.from_numpy(value).to(narrow).float() for value in (x, constants["w"])]
    expected = torch.conv2d(*rounded).to(narrow).float() * torch.tensor(1 / 3)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=torch.finfo(narrow).eps, atol=1e-6)
    assert not torch.equal(torch.from_numpy(found), torch.from_numpy(found).to(narrow).float())


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_the_casts_at_the_edges_of_a_typed_graph_are_left_to_who_feeds_and_reads_it(tmp_path, dtype):
    """A device side writes and reads 16 bits; arrays on the host are float32, with the same bits as with the casts."""
    nodes = [
        node("Cast", ["x"], ["n"], to=dtype),
        node("Conv", ["n", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
        node("Cast", ["r"], ["inner"], to=TensorProto.FLOAT),
        node("Mul", ["inner", "third"], ["z"]),
    ]
    weight = random(4, 3, 3, 3, seed=1).astype(helper.tensor_dtype_to_np_dtype(dtype))
    constants = {"w": weight, "third": np.float32(1 / 3)}
    model = make_model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6], "z": [1, 4, 6, 6]}, constants, opset=22)
    session: Any = Torch().open(Engine("torch", save(model, tmp_path)))
    narrow = torch.float16 if dtype == TensorProto.FLOAT16 else torch.bfloat16
    x = random(1, 3, 8, 8)
    results = session.program.run({"x": torch.from_numpy(x).to(narrow)})
    assert session.program.entry("x") == narrow
    assert (results["y"].dtype, results["z"].dtype) == (narrow, torch.float32)
    found, visited = session.run({"x": x}), {}
    session.visit({"x": x}, visited.__setitem__)
    assert {name: value.astype(np.float32).tolist() for name, value in visited.items()} == {
        name: value.tolist() for name, value in found.items()
    }
    assert found["y"].dtype == np.float32
    np.testing.assert_array_equal(found["y"], results["y"].float().numpy())
    np.testing.assert_array_equal(found["z"], found["y"] * np.float32(1 / 3))
    assert not session.program.channels_last, "that is for GPUs"


def test_sums_of_16_bits_are_kept_in_float32(tmp_path):
    """4096 ones and a half: float16 itself would stay at 2048."""
    model = make_model(
        [node("MatMul", ["x", "w"], ["y"])], {"x": [1, 4096]}, {"y": [1, 1]}, {"w": np.ones((4096, 1), np.float32)}
    )
    session = session_in(save(model, tmp_path), "float16")
    assert session.run({"x": np.ones((1, 4096), np.float32)})["y"].item() == 4096


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_stays_inside(tmp_path, precision):
    """Weights, constants and casts to float32 are rounded; what goes in and comes out is float32."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        node("Mul", ["d", "half"], ["y"]),
    ]
    constants = {"w": random(4, 3, 3, 3, seed=1), "half": np.float32(0.5)}
    model = make_model(nodes, {"x": [2, 3, 8, 8]}, {"y": [2, 4, 8, 8]}, constants)
    x = random(2, 3, 8, 8)
    session: Any = session_in(save(model, tmp_path), HALF[precision])
    dtype = getattr(torch, HALF[precision])
    found = session.run({"x": x})["y"]
    with torch.no_grad():
        rounded = [torch.from_numpy(value).to(dtype) for value in (x, constants["w"])]
        expected = torch.nn.functional.conv2d(*rounded, padding=1) * 0.5
    assert found.dtype == np.float32
    assert session.program.run({"x": rounded[0]})["y"].dtype == dtype
    np.testing.assert_allclose(found, expected.float().numpy(), rtol=1e-2, atol=1e-2)
    exact = run_model(model, x=x)["y"]
    assert 1e-5 < np.abs(found - exact).max() < 0.1, "it was not computed in 16 bits"


def test_a_graph_of_float16_is_run_as_it_is(tmp_path):
    graph = helper.make_graph(
        [node("Add", ["x", "c"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [3])],
        [numpy_helper.from_array(np.array([1, 2, 3], np.float16), "c")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    found = open_session("torch", save(model, tmp_path)).run({"x": np.full(3, 0.1, np.float16)})["y"]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.array([1, 2, 3], np.float16) + np.float16(0.1))


@pytest.mark.parametrize("visited", [False, True])
def test_values_are_dropped_after_their_last_use(tmp_path, visited):
    """A chain of 40 sums of 4 MiB each may hold a few of them, not all; even where all are outputs that are visited."""
    names = ["x", *(f"v{i}" for i in range(39)), "y"]
    outputs = {name: [1, 2**20] for name in (names[1:] if visited else ["y"])}
    model = make_model([node("Add", [a, a], [b]) for a, b in pairwise(names)], {"x": [1, 2**20]}, outputs)
    session: Any = Torch().open(Engine("torch", save(model, tmp_path)))
    alive: list[int] = []
    made: list[ref[torch.Tensor]] = []
    for step in session.program._steps:
        function = step.function

        def counted(*tensors: torch.Tensor, function: Callable[..., torch.Tensor] = function) -> torch.Tensor:
            result = function(*tensors)
            made.append(ref(result))
            alive.append(sum(entry() is not None for entry in made))
            return result

        step.function = counted
    feed = {"x": np.ones((1, 2**20), np.float32)}
    if visited:
        found: dict[str, float] = {}
        session.visit(feed, lambda name, value: found.update({name: value.max()}))
        assert found == {name: 2.0 ** (row + 1) for row, name in enumerate(names[1:])}
    else:
        session.run(feed)
    assert len(alive) == 40
    assert max(alive) <= 2


@pytest.mark.parametrize("batch", [1, 2])
def test_inputs_may_lie_backwards_in_memory(tmp_path, batch):
    """As images whose channels were turned round, and single ones of a reversed batch."""
    model = make_model([node("Relu", ["x"], ["y"])], {"x": ("batch", 3, 2, 2)}, {"y": ("batch", 3, 2, 2)}, {})
    session, x = open_session("torch", save(model, tmp_path)), random(batch, 3, 2, 2)
    for turned in (x[::-1], x[:, ::-1], x[..., ::-1]):
        np.testing.assert_array_equal(session.run({"x": turned})["y"], np.maximum(turned, 0))


def test_a_visit_gives_what_a_run_gives(tmp_path):
    """An input and a constant as outputs, one that is read again, and one without a reader; in float64 unrounded."""
    nodes = [node("Mul", ["x", "third"], ["y"]), node("Add", ["y", "y"], ["z"]), node("Neg", ["z"], ["w"])]
    shapes = {name: [4] for name in ("w", "y", "z", "x")} | {"third": []}
    model = make_model(nodes, {"x": [4]}, shapes, {"third": np.float32(1 / 3)})
    x = random(4)
    for dtype in (None, "float64", "bfloat16"):
        session, visited = session_in(save(model, tmp_path), dtype), {}
        session.visit({"x": x}, visited.__setitem__)
        found = session.run({"x": x})
        assert list(visited)[:3] == ["y", "z", "w"], "in the order in which they are computed"
        assert visited.keys() == found.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(visited[name].astype(value.dtype), value)
        assert visited["y"].dtype == (dtype if dtype == "float64" else np.float32)


class Gate:
    """A plugin with an operator of its own, and with a faster way for a chain."""

    def __init__(self) -> None:
        self.chains = 0

    @hookimpl
    def convkit_torch_operators(self) -> Mapping[tuple[str, str], Callable[..., Any]]:
        def gate(builder_node: Any) -> Any:
            alpha = builder_node.attributes["alpha"]
            return lambda x: x * (x > alpha)

        def gate_abs(last: Any) -> Any:
            first = last.source(0)
            if first.attributes["alpha"] < 0:
                return None
            self.chains += 1
            return (lambda x: (x * (x > first.attributes["alpha"])).abs()), first.inputs

        return {("mine", "Gate"): gate, ("mine", "Gate+Abs"): gate_abs}


def gated(alpha: float, *, shared: bool = False) -> onnx.ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Gate", ["x"], ["g"], domain="mine", alpha=alpha),
            node("Abs", ["g"], ["y"]),
            node("Neg", ["g" if shared else "x"], ["z"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5]) for name in "yz"],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize(("alpha", "shared", "chains"), [(0.5, False, 1), (0.5, True, 0), (-0.5, False, 0)])
def test_a_plugin_adds_operators_and_chains(tmp_path, alpha, shared, chains):
    """A chain that others read from, and one that its builder declines, run by the single operators."""
    x = random(5)
    path = save(gated(alpha, shared=shared), tmp_path)
    with registered(Gate(), "gate") as plugin:
        found = open_session("torch", path).run({"x": x})
    np.testing.assert_array_equal(found["y"], np.abs(x * (x > alpha)))
    np.testing.assert_array_equal(found["z"], -(x * (x > alpha)) if shared else -x)
    assert plugin.chains == chains


def test_an_unknown_operator_is_named_with_its_domain(tmp_path):
    with pytest.raises(EnvironmentProblem, match="mine::Gate") as caught:
        open_session("torch", save(gated(1.0), tmp_path))
    assert "convkit_torch_operators" in caught.value.hint
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("content", [b"not a model", b"\x08\x09"])
def test_a_file_that_is_no_model_is_an_error_in_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(EnvironmentProblem, match="model") as caught:
        open_session("torch", path)
    assert "\n" not in caught.value.message


def test_a_shape_that_does_not_fit_is_an_error_in_one_line(tmp_path):
    model = make_model([node("Reshape", ["x", "s"], ["y"])], {"x": ["n", 4]}, {"y": [2, 2]}, {"s": np.array([2, 2])})
    with pytest.raises(ConversionError, match=r"x \[3, 4\]") as caught:
        open_session("torch", save(model, tmp_path)).run({"x": random(3, 4)})
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99", "tpu", "cuda:x", "cpu:1"])
def test_a_device_that_is_not_there_is_refused(tmp_path, device):
    if device in ("cuda", "cuda:0") and torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(EnvironmentProblem, match=device) as caught:
        open_session("torch", tmp_path / "model.onnx", device=device)
    assert caught.value.exit_code == 5


def test_it_describes_itself():
    backend = Torch()
    assert backend.problem() == ""
    described = backend.describe()
    assert torch.__version__.startswith(described["version"])
    assert described["build"] == (f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build")


def test_an_artifact_is_proved_and_run_on_it(toy, toy_artifact):
    assert validate(toy_artifact.path, backend="torch").passed
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    with load(toy_artifact.path) as known, load(toy_artifact.path, backend="torch") as found:
        np.testing.assert_allclose(found(image).probabilities, known(image).probabilities, rtol=1e-4)
