"""Typed graphs whatever the network: order of nodes, Casts, names to keep, quantisation, NVIDIA's parser."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from support.graphs import make_model, node

from convkit.backends.tensorrt import Task, find_flavour, run_tasks
from convkit.graph import PRECISION_KEY, apply_rewrite, metadata_of
from convkit.graph.precision import Range, To16Bit

NUMBERS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(len(shape)).standard_normal(shape) / 3).astype(np.float32)


def network() -> onnx.ModelProto:
    """Branches with positions that are sampled at, a decision, values that overflow, and a tensor that all read."""
    nodes = [
        node("Conv", ["x", "w0"], ["f"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["f"], ["g"], name="relu"),
        node("Conv", ["g", "w1"], ["o"], name="offsets"),
        node("Transpose", ["o"], ["t"], name="turn", perm=[0, 2, 3, 1]),
        node("Tanh", ["t"], ["grid"], name="tanh"),
        node("GridSample", ["g", "grid"], ["q"], name="sample"),
        node("Conv", ["q", "w2"], ["c"], name="second"),
        node("Mul", ["c", "many"], ["m"], name="grow"),
        node("Sigmoid", ["m"], ["p"], name="squash"),
        node("Add", ["p", "g"], ["sum"], name="add"),
        node("Concat", ["sum", "g", "q"], ["all"], name="concat", axis=1),
        node("Conv", ["all", "w3"], ["heat"], name="heat"),
        node("MaxPool", ["heat"], ["top"], name="pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Equal", ["heat", "top"], ["peak"], name="equal"),
        node("Where", ["peak", "heat", "low"], ["scores"], name="where"),
        node("Conv", ["all", "w3"], ["sizes"], name="sizes"),
    ]
    constants = {
        "w0": weights(4, 3, 3, 3), "w1": weights(2, 4, 1, 1), "w2": weights(4, 4, 1, 1), "w3": weights(2, 12, 1, 1),
        "many": np.float32(100), "low": np.float32(-1e4),
    }  # fmt: skip
    outputs = {"scores": [1, 2, 8, 8], "sizes": [1, 2, 8, 8], "g": [1, 4, 8, 8]}
    return make_model(nodes, {"x": [1, 3, 8, 8]}, outputs, constants)


RANGES = {"m": Range(-1e6, 1e6, 1e-3)}


def shuffled(model: onnx.ModelProto, choose: st.DataObject) -> onnx.ModelProto:
    """Return the model with its nodes in another order that is topological."""
    waiting, order = list(model.graph.node), []
    made = {tensor.name for tensor in (*model.graph.input, *model.graph.initializer)}
    while waiting:
        ready = [each for each in waiting if made.issuperset(each.input)]
        chosen = ready[choose.draw(st.integers(0, len(ready) - 1))]
        waiting.remove(chosen)
        order.append(chosen)
        made.update(chosen.output)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(order)
    return result


def described(model: onnx.ModelProto) -> dict[str, object]:
    """Return each node by name: its operator, its inputs and outputs with their types, and why it is float32."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    } | {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {
        each.name: (
            each.op_type,
            [(name, types[name]) for name in (*each.input, *each.output)],
            metadata_of(each, PRECISION_KEY),
        )
        for each in graph.node
    }  # fmt: skip


@pytest.mark.parametrize("precision", NUMBERS)
def test_types_and_casts_do_not_depend_on_the_order_of_the_nodes(precision):
    expected = described(apply_rewrite(network(), To16Bit(precision, ranges=RANGES))[0])

    @settings(max_examples=25, deadline=None, database=None)
    @given(st.data())
    def same(choose: st.DataObject) -> None:
        model = shuffled(network(), choose)
        assert described(apply_rewrite(model, To16Bit(precision, ranges=RANGES))[0]) == expected

    same()


@pytest.mark.parametrize("precision", NUMBERS)
def test_casts_stand_at_frontiers_alone_and_none_twice(precision):
    model, _ = apply_rewrite(network(), To16Bit(precision, keep=["second"], ranges=RANGES))
    onnx.checker.check_model(model, full_check=True)
    casts = [each for each in model.graph.node if each.op_type == "Cast"]
    assert casts
    made_by = {name: each for each in model.graph.node for name in each.output}
    rows = described(model)
    for each in casts:
        (_, source), (_, result) = rows[each.name][1]
        assert {source, result} == {TensorProto.FLOAT, NUMBERS[precision]}, each.name
        assert made_by.get(each.input[0]) not in casts, "a Cast of a Cast"
    assert max(Counter((each.input[0], onnx.helper.get_node_attr_value(each, "to")) for each in casts).values()) == 1


@pytest.mark.parametrize("precision", NUMBERS)
def test_nvidias_parser_finds_no_mixed_types(precision, tmp_path):
    """Features and grid of a GridSample, input and weights of a Conv, operands of an Add: it refuses unequal ones."""
    files = []
    for keep in ((), ("second",), ("sample", "add"), ("relu", "heat", "sizes")):
        model, _ = apply_rewrite(network(), To16Bit(precision, keep=keep, ranges=RANGES))
        files.append(tmp_path / f"{len(files)}.onnx")
        onnx.save(model, files[-1])
    for outcome in run_tasks(find_flavour("tensorrt-rtx"), [Task(file) for file in files]):
        assert outcome.accepted, outcome.errors


def quantised() -> onnx.ModelProto:
    """Two convolutions, the second with quantised input and weights, and one that is kept float32."""
    nodes = [
        node("Conv", ["x", "w0"], ["f"], name="stem", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", ["f", "s", "z"], ["fq"], name="q"),
        node("DequantizeLinear", ["fq", "s", "z"], ["fd"], name="dq"),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="dqw", axis=0),
        node("Conv", ["fd", "wd"], ["a"], name="second"),
        node("DequantizeLinear", ["fq", "s", "z"], ["fe"], name="dq2"),
        node("Conv", ["fe", "w1"], ["b"], name="third"),
    ]
    constants = {
        "w0": weights(4, 3, 3, 3), "s": np.float32(2.0**-7), "z": np.int8(0), "w1": weights(2, 4, 1, 1),
        "wq": (np.arange(8).reshape(2, 4, 1, 1) * 30 - 100).astype(np.int8), "ws": np.float32([3e-5, 0.01]),
        "wz": np.zeros(2, np.int8),
    }  # fmt: skip
    return make_model(nodes, {"x": [1, 3, 8, 8]}, {"a": [1, 2, 8, 8], "b": [1, 2, 8, 8]}, constants)


@pytest.mark.parametrize("precision", NUMBERS)
def test_quantisation_has_the_types_of_its_neighbours_and_no_casts_at_it(precision, tmp_path):
    model, _ = apply_rewrite(quantised(), To16Bit(precision, keep=["third"]))
    onnx.checker.check_model(model, full_check=True)
    number, rows = NUMBERS[precision], described(model)
    assert [kind for _, kind in rows["q"][1]] == [number, number, TensorProto.INT8, TensorProto.INT8]
    assert [kind for _, kind in rows["dq"][1]] == [TensorProto.INT8, number, TensorProto.INT8, number]
    assert [kind for _, kind in rows["dqw"][1]] == [TensorProto.INT8, number, TensorProto.INT8, number]
    assert [kind for _, kind in rows["dq2"][1]] == [
        TensorProto.INT8,
        TensorProto.FLOAT,
        TensorProto.INT8,
        TensorProto.FLOAT,
    ]
    assert sum(each.op_type == "Cast" for each in model.graph.node) == 2, "one for the input, one for the output a"
    assert apply_rewrite(model, To16Bit(precision, keep=["third"]))[0] is model
    onnx.save(model, tmp_path / "model.onnx")
    (outcome,) = run_tasks(find_flavour("tensorrt-rtx"), [Task(tmp_path / "model.onnx")])
    assert outcome.accepted, outcome.errors


def test_a_scale_that_vanishes_keeps_its_quantisation_float32(tmp_path: Path):
    model = quantised()
    for tensor in model.graph.initializer:
        if tensor.name == "ws":
            tensor.CopyFrom(numpy_helper.from_array(np.float32([1e-9, 0.01]), "ws"))
    result, _ = apply_rewrite(model, To16Bit("fp16"))
    onnx.checker.check_model(result, full_check=True)
    assert described(result)["dqw"][1][-1][1] == TensorProto.FLOAT
    assert described(result)["second"][1][0][1] == TensorProto.FLOAT16
