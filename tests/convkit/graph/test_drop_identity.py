"""Dropping Identity nodes: those between other nodes go, those that name an output stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.graphs import make_model, node, op_types, run_model

from convkit.conversion import check_graph
from convkit.graph import apply_rewrite
from convkit.graph._drop_identity import DropIdentity

X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


def chain() -> onnx.ModelProto:
    nodes = [
        node("Identity", ["x"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Identity", ["b"], ["c"], name="second"),
        node("Identity", ["c"], ["d"], name="third"),
        node("Add", ["d", "c"], ["e"], name="add"),
        node("Mul", ["c", "c"], ["f"], name="square"),
        node("Sub", ["e", "f"], ["y"], name="sub"),
    ]
    return make_model(nodes, {"x": [2, 4]}, {"y": [2, 4]})


def test_identities_between_nodes_go_and_every_consumer_gets_the_source():
    model = chain()
    result, record = apply_rewrite(model, DropIdentity())
    assert op_types(result) == ["Relu", "Add", "Mul", "Sub"]
    assert (record.fired, sorted(record.removed)) == (3, ["first", "second", "third"])
    check_graph(result)
    np.testing.assert_array_equal(run_model(result, x=X)["y"], run_model(model, x=X)["y"])


def test_dropping_twice_is_dropping_once():
    once, _ = apply_rewrite(chain(), DropIdentity())
    again, record = apply_rewrite(once, DropIdentity())
    assert again is once
    assert record.fired == 0


@pytest.mark.parametrize("source", ["x", "w", "r"], ids=["an input", "a constant", "a node"])
def test_an_identity_that_names_an_output_stays_and_says_why(source):
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("Identity", [source], ["y"], name="name"),
        node("Neg", ["r"], ["z"], name="neg"),
    ]
    model = make_model(nodes, {"x": [2, 4]}, {"y": [2, 4], "z": [2, 4]}, {"w": X})
    result, record = apply_rewrite(model, DropIdentity())
    assert record.fired == 0
    assert record.near_misses == ["name: its output is an output of the graph and must keep its name"]
    assert result is model


def test_an_output_that_also_feeds_a_node_keeps_its_name_and_its_value():
    nodes = [
        node("Relu", ["x"], ["r"], name="relu"),
        node("Identity", ["r"], ["a"], name="between"),
        node("Identity", ["a"], ["y"], name="name"),
        node("Neg", ["y"], ["z"], name="neg"),
    ]
    model = make_model(nodes, {"x": [2, 4]}, {"y": [2, 4], "z": [2, 4]})
    result, record = apply_rewrite(model, DropIdentity())
    assert (record.fired, record.removed) == (1, ["between"])
    outputs = run_model(result, x=X)
    np.testing.assert_array_equal(outputs["y"], np.maximum(X, 0))
    np.testing.assert_array_equal(outputs["z"], -np.maximum(X, 0))


def test_an_identity_used_inside_a_subgraph_is_replaced_there_too():
    """A branch of an If sees the tensors of the graph around it."""

    def branch(op: str) -> onnx.GraphProto:
        value = onnx.helper.make_tensor_value_info(f"{op}_out", onnx.TensorProto.FLOAT, [2, 4])
        return onnx.helper.make_graph([node(op, ["a"], [f"{op}_out"], name=op)], op, [], [value])

    nodes = [
        node("Identity", ["x"], ["a"], name="identity"),
        node("ReduceSum", ["x"], ["sum"], keepdims=0, name="total"),
        node("Greater", ["sum", "zero"], ["positive"], name="greater"),
        node("If", ["positive"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"), name="if"),
    ]
    model = make_model(nodes, {"x": [2, 4]}, {"y": [2, 4]}, {"zero": np.array(0, np.float32)})
    result, _ = apply_rewrite(model, DropIdentity())
    check_graph(result)
    for x in (np.abs(X), -np.abs(X)):
        np.testing.assert_array_equal(run_model(result, x=x)["y"], run_model(model, x=x)["y"])
