"""Faults and clean variants of graphs against ONNX Runtime, on one graph that has a place for each of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.graphs import make_model, node, run_model

from convkit.backends import open_session
from convkit.graph import apply_rewrite
from convkit.graph.precision import To16Bit, quantize
from convkit.self_test import GRAPH_FAULTS, spoilt_graphs
from convkit.self_test._clean import NotApplicableError, Variant
from convkit.self_test._clean_graph import GRAPH_VARIANTS

ELSEWHERE = {"constant nodes as initializers"}
"""Variants for graphs with Constant nodes; this one has initializers."""
OF_TYPED = {
    "float16 clamp", "a scale wrong by 2", "scales of channels moved", "a float32 island missing",
    "coordinates in 16 bits",
}  # fmt: skip
"""Faults that a float32 graph has no place for."""
EVERY_PLACE_COUNTS = {"kernel flipped", "bias dropped", "channels swapped", "a layer scaled by 1.01", "mask ignored"}


def everything(seed: int = 0) -> onnx.ModelProto:
    """Return a graph with every kind of node that a fault or a variant looks for."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)

    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], "n1", epsilon=1e-5),
        node("Relu", ["n1"], ["r1"], "r1"),
        node("MaxPool", ["r1"], ["p1"], "p1", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], "c2", pads=[1, 1, 1, 1]),
        node("Conv", ["c2", "w9", "b9"], ["c9"], "c9", pads=[1, 1, 1, 1]),
        node("Add", ["c9", "p1"], ["a2"], "a2"),
        node("LeakyRelu", ["a2"], ["r2"], "r2", alpha=0.1),
        node("Conv", ["r2", "w3", "b3"], ["o"], "o", pads=[1, 1, 1, 1]),
        node("Split", ["o", "parts"], ["offsets", "logits"], "split", axis=1),
        node("Sigmoid", ["logits"], ["mask"], "mask"),
        node("DeformConv", ["r2", "w4", "offsets", "b4", "mask"], ["d"], "d", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("ConvTranspose", ["d", "w5"], ["t"], "t", strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[4, 4]),
        node("Resize", ["d", "", "scales"], ["z"], "z", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Concat", ["t", "z"], ["k"], "k", axis=1),
        node("Conv", ["k", "w6", "b6"], ["maps"], "maps"),
        node("GlobalAveragePool", ["k"], ["q"], "q"),
        node("Flatten", ["q"], ["f"], "f"),
        node("Gemm", ["f", "w7", "b7"], ["e"], "e", transB=1),
        node("Cast", ["ids"], ["whole"], "whole", to=TensorProto.INT64),
        node("Gather", ["table", "whole"], ["rows"], "rows"),
        node("MatMul", ["rows", "w8"], ["h"], "h"),
        node("Add", ["e", "h"], ["s"], "s"),
        node("Softmax", ["s"], ["classes"], "classes", axis=1),
    ]
    constants = {
        "w1": weight(8, 3, 3, 3), "b1": weight(8), "g": weight(8) + 1, "b": weight(8), "m": weight(8),
        "v": np.abs(weight(8)) + 1, "w2": weight(8, 8, 3, 3), "b2": weight(8), "w3": weight(27, 8, 3, 3),
        "b3": weight(27), "parts": np.array([18, 9]), "w4": weight(8, 8, 3, 3), "b4": weight(8),
        "w5": weight(8, 8, 4, 4), "scales": np.array([1, 1, 2, 2], np.float32), "w6": weight(2, 16, 1, 1),
        "b6": weight(2), "w7": weight(8, 16), "b7": weight(8), "table": weight(5, 8), "w8": weight(8, 8),
        "w9": weight(8, 8, 3, 3), "b9": weight(8),
    }  # fmt: skip
    shapes = {"x": ["n", 3, 32, 32], "ids": ["n"]}
    return make_model(nodes, shapes, {"maps": ["n", 2, 16, 16], "classes": ["n", 8]}, constants)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return everything()


@pytest.fixture(scope="module")
def feed() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((2, 3, 32, 32)).astype(np.float32), "ids": np.array([1, 4], np.float32)}


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Return the largest difference of any output; their shapes are the same."""
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    return max(float(np.abs(value - other[name]).max()) for name, value in one.items())


@pytest.fixture(scope="module")
def typed(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, onnx.ModelProto]:
    """The same graph in float16 and in int8, one of its convolutions in float32."""
    half, _ = apply_rewrite(model, To16Bit("fp16", ["c2"]))
    whole, _ = quantize(model, [feed], method="minmax", keep=["c2"])
    return {"fp16": half, "int8": whole}


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("float16 clamp", "fp16"), ("float16 clamp", "int8"), ("a scale wrong by 2", "int8"),
     ("scales of channels moved", "int8"), ("a float32 island missing", "fp16"), ("coordinates in 16 bits", "fp16")],
)  # fmt: skip
def test_a_fault_of_typed_graphs_makes_a_valid_graph_that_computes_something_else(
    typed: dict[str, onnx.ModelProto], feed: dict[str, np.ndarray], kind: str, precision: str, tmp_path: Path
) -> None:
    def rounded(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
        """Run a graph where every result is rounded to its type, which ONNX Runtime on the CPU leaves out."""
        onnx.save(graph, tmp_path / "graph.onnx")
        return open_session("torch", tmp_path / "graph.onnx").run(feed)

    sound = rounded(typed[precision])
    differences = []
    for where, spoilt in spoilt_graphs(typed[precision], kind):
        onnx.checker.check_model(spoilt, full_check=True)
        differences.append(largest_difference(sound, rounded(spoilt)))
        assert where
    assert differences
    assert max(differences) > 1e-4
    assert kind != "a scale wrong by 2" or min(differences) > 1e-3


@pytest.mark.parametrize("kind", [fault.kind for fault in GRAPH_FAULTS if fault.kind not in OF_TYPED])
def test_a_fault_makes_a_valid_graph_that_computes_something_else(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], kind: str
) -> None:
    sound, before = run_model(model, **feed), model.SerializeToString()
    differences = []
    for where, spoilt in spoilt_graphs(model, kind):
        onnx.checker.check_model(spoilt)
        differences.append(largest_difference(sound, run_model(spoilt, **feed)))
        assert where
    assert max(differences) > 1e-5
    assert kind not in EVERY_PLACE_COUNTS or min(differences) > 1e-5
    assert model.SerializeToString() == before, "the sound graph was changed"


def test_a_graph_without_a_place_has_no_fault() -> None:
    plain = make_model([node("Relu", ["x"], ["y"], "r")], {"x": [2, 3]}, {"y": [2, 3]})
    places = {fault.kind: len(list(spoilt_graphs(plain, fault.kind))) for fault in GRAPH_FAULTS}
    assert {kind for kind, count in places.items() if count} == {"activation dropped", "leaky activation"}


def test_float32_graphs_have_no_place_for_faults_of_typed_ones(model: onnx.ModelProto) -> None:
    assert {fault.kind for fault in GRAPH_FAULTS} >= OF_TYPED
    assert not [kind for kind in OF_TYPED if list(spoilt_graphs(model, kind))]


@pytest.mark.parametrize("variant", GRAPH_VARIANTS, ids=lambda variant: variant.name)
def test_a_clean_variant_is_another_graph_that_computes_the_same(
    model: onnx.ModelProto, feed: dict[str, np.ndarray], variant: Variant, tmp_path: Any
) -> None:
    opened: list[onnx.ModelProto] = []
    judge: Any = SimpleNamespace(
        model=model, subject=opened.append, backend="onnxruntime", session=SimpleNamespace(device="cpu")
    )
    before = model.SerializeToString()
    if variant.name in ELSEWHERE:
        with pytest.raises(NotApplicableError):
            variant.make(judge)
        return
    subject = variant.make(judge)
    assert model.SerializeToString() == before, "the sound graph was changed"
    if opened:
        (changed,) = opened
        onnx.checker.check_model(changed)
        found = run_model(changed, **feed)
    else:  # it opened a file of its own
        assert subject.session is not None
        found = subject.session.run(feed)
    assert largest_difference(run_model(model, **feed), found) < 1e-5


def test_constant_nodes_become_initializers() -> None:
    value = onnx.helper.make_tensor("value", TensorProto.FLOAT, [3], [1, 2, 3])
    nodes = [node("Constant", [], ["c"], "c", value=value), node("Add", ["x", "c"], ["y"], "add")]
    plain = make_model(nodes, {"x": [2, 3]}, {"y": [2, 3]})
    opened: list[onnx.ModelProto] = []
    judge: Any = SimpleNamespace(model=plain, subject=opened.append)
    next(variant for variant in GRAPH_VARIANTS if variant.name in ELSEWHERE).make(judge)
    assert [each.op_type for each in opened[0].graph.node] == ["Add"]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run_model(opened[0], x=x)["y"], [[2, 3, 4], [2, 3, 4]])
