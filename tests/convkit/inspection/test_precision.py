"""Which types a graph computes in, read back from graphs whose types are known."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from support.graphs import make_model, node

from convkit.graph import PRECISION_KEY
from convkit.inspection import GraphPrecision, graph_precision, graph_stats


def mixed() -> onnx.ModelProto:
    """A float16 convolution of 9 taps, a float32 one of 1 tap that somebody kept, and a TopK of its result."""
    nodes = [
        node("Cast", ["x"], ["n"], to=TensorProto.FLOAT16),
        node("Conv", ["n", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Cast", ["c"], ["wide"], to=TensorProto.FLOAT),
        node("Conv", ["wide", "v"], ["d"]),
        node("TopK", ["d", "k"], ["y", "i"]),
        node("Shape", ["d"], ["s"]),
    ]
    constants = {
        "w": np.ones((4, 4, 3, 3), np.float16), "v": np.ones((4, 4, 1, 1), np.float32), "k": np.array([2]),
    }  # fmt: skip
    model = make_model(nodes, {"x": [1, 4, 8, 8]}, {"y": [1, 4, 8, 2]}, constants)
    for place, each in enumerate(model.graph.node):
        each.name = f"{each.op_type}_{place}"
    model.graph.node[3].metadata_props.add(key=PRECISION_KEY, value="it is kept by name")
    return model


def precision_of(model: onnx.ModelProto) -> GraphPrecision:
    return graph_precision(model, graph_stats(model, {}))


def test_nodes_arithmetic_and_weights_are_counted_by_type() -> None:
    found = precision_of(mixed())
    assert found.nodes == {"float32": 3, "float16": 1}  # Conv, TopK and Shape, which reads float32; Conv
    assert found.converters == 2
    assert found.arithmetic == {"float16": 0.9, "float32": 0.1}
    assert found.weights == {"float16": 0.9, "float32": 0.1}
    assert found.kept == {"Conv_3": "it is kept by name"}
    assert found.share(["float16"]) == 0.9


def test_as_json_it_says_what_was_asked() -> None:
    document = precision_of(mixed()).to_json("fp16")
    assert document["asked"] == "fp16"
    assert document["kept"] == ["Conv_3"]
    assert document["reasons"] == {"Conv_3": "it is kept by name"}


def test_without_arithmetic_the_share_is_that_of_the_nodes() -> None:
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [1, 4]}, {"y": [1, 4]}, {})
    assert precision_of(model).share(["float32"]) == 1.0
    assert precision_of(model).arithmetic == {}


def test_products_of_quantised_tensors_count_as_int8() -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"]),
        node("DequantizeLinear", ["q", "s"], ["a"]),
        node("DequantizeLinear", ["w", "s"], ["b"]),
        node("MatMul", ["a", "b"], ["m"]),
        node("Relu", ["m"], ["y"]),
    ]
    constants = {"s": np.float32(0.1), "w": np.ones((4, 2), np.int8)}
    found = precision_of(make_model(nodes, {"x": [3, 4]}, {"y": [3, 2]}, constants))
    assert found.nodes == {"int8": 1, "float32": 1}
    assert found.converters == 3
