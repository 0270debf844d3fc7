"""Constant folding: the same results from fewer nodes, and no huge constants out of small ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.graphs import make_model, node, op_types, run_model

from convkit.conversion import check_graph
from convkit.graph import apply_rewrite
from convkit.graph._fold_constants import FoldConstants

RNG = np.random.default_rng(0)


def scaled() -> onnx.ModelProto:
    """Build y = x * sqrt(a + b) + reshape(c), where all but x is constant."""
    nodes = [
        node("Add", ["a", "b"], ["sum"], name="sum"),
        node("Sqrt", ["sum"], ["factor"], name="sqrt"),
        node("Reshape", ["c", "shape"], ["offset"], name="reshape"),
        node("Mul", ["x", "factor"], ["scaled"], name="mul"),
        node("Add", ["scaled", "offset"], ["y"], name="add"),
    ]
    constants = {
        "a": RNG.random(4, np.float32),
        "b": RNG.random(4, np.float32),
        "c": RNG.random(4, np.float32),
        "shape": np.array([1, 4]),
    }
    return make_model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, constants)


def test_constant_nodes_become_constants_and_the_result_stays():
    model = scaled()
    result, record = apply_rewrite(model, FoldConstants())
    assert op_types(result) == ["Mul", "Add"]
    assert (record.fired, sorted(record.removed)) == (3, ["reshape", "sqrt", "sum"])
    check_graph(result)
    x = RNG.standard_normal((3, 4), np.float32)
    np.testing.assert_array_equal(run_model(result, x=x)["y"], run_model(model, x=x)["y"])


def test_folding_twice_is_folding_once():
    once, _ = apply_rewrite(scaled(), FoldConstants())
    again, record = apply_rewrite(once, FoldConstants())
    assert again is once
    assert record.fired == 0


def test_shape_arithmetic_of_a_static_graph_folds_away_and_of_a_dynamic_one_stays():
    def flattened(batch: int | str) -> onnx.ModelProto:
        nodes = [
            node("Shape", ["x"], ["shape"], start=0, end=1),
            node("Concat", ["shape", "rest"], ["target"], axis=0),
            node("Reshape", ["x", "target"], ["y"]),
        ]
        return make_model(nodes, {"x": [batch, 2, 3]}, {"y": [batch, 6]}, {"rest": np.array([-1])})

    static, _ = apply_rewrite(flattened(5), FoldConstants())
    assert op_types(static) == ["Reshape"]
    model = flattened("n")
    dynamic, _ = apply_rewrite(model, FoldConstants())
    for batch in (1, 4):
        x = RNG.random((batch, 2, 3), np.float32)
        np.testing.assert_array_equal(run_model(dynamic, x=x)["y"], x.reshape(batch, 6))


def test_a_small_constant_is_not_blown_up_into_a_huge_one():
    """Expanding one number to 64 MiB is cheaper to do than to store."""
    nodes = [node("Expand", ["one", "shape"], ["big"], name="expand"), node("Add", ["x", "big"], ["y"], name="add")]
    size = [1, 4096, 4096]
    model = make_model(nodes, {"x": size}, {"y": size}, {"one": np.ones(1, np.float32), "shape": np.array(size)})
    result, _ = apply_rewrite(model, FoldConstants())
    assert len(result.SerializeToString()) < 10_000
    assert "Expand" in op_types(result)


def test_random_numbers_are_not_constant():
    nodes = [
        node("RandomNormal", [], ["noise"], shape=[1, 4], name="noise"),
        node("Add", ["x", "noise"], ["y"], name="add"),
    ]
    result, record = apply_rewrite(make_model(nodes, {"x": [1, 4]}, {"y": [1, 4]}), FoldConstants())
    assert record.fired == 0
    assert op_types(result) == ["RandomNormal", "Add"]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [({}, [5, 2, 3]), ({"start": 1}, [2, 3]), ({"end": 1}, [5]), ({"start": -1}, [3]),
     ({"start": 0, "end": -1}, [5, 2]), ({"start": 2, "end": 1}, [])],
)  # fmt: skip
def test_a_part_of_a_shape_is_that_part(attributes, expected):
    nodes = [node("Shape", ["x"], ["s"], **attributes), node("Cast", ["s"], ["y"], to=onnx.TensorProto.FLOAT)]
    model = make_model(nodes, {"x": [5, 2, 3]}, {"y": [None]})
    result, record = apply_rewrite(model, FoldConstants())
    assert (op_types(result), record.fired) == ([], 2)
    np.testing.assert_array_equal(run_model(result, x=np.zeros((5, 2, 3), np.float32))["y"], expected)


@pytest.mark.parametrize(
    ("taking", "expected"),
    [(node("Gather", ["s", "last"], ["t"]), [3]),
     (node("Slice", ["s", "one", "far"], ["t"]), [2, 3]),
     (node("Slice", ["s", "one", "far", "zero", "two"], ["t"]), [2])],
)  # fmt: skip
def test_what_is_taken_of_a_dynamic_shape_is_constant_where_it_is_known(taking, expected):
    """Of the part behind the first axis, so that the places are counted from there."""
    nodes = [
        node("Shape", ["x"], ["s"], start=-3), taking,
        node("Cast", ["t"], ["y"], to=onnx.TensorProto.FLOAT),
        node("Shape", ["x"], ["all"], end=2), node("Cast", ["all"], ["z"], to=onnx.TensorProto.FLOAT),
    ]  # fmt: skip
    constants = {"last": np.array([-1]), "one": np.array([1]), "far": np.array([2**63 - 1]), "zero": np.array([0]),
                 "two": np.array([2])}  # fmt: skip
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in constants.items() if name in used}
    model = make_model(nodes, {"x": [4, "n", 2, 3]}, {"y": [None], "z": [None]}, constants)
    result, _ = apply_rewrite(model, FoldConstants())
    assert op_types(result) == ["Shape", "Cast"]
    found = run_model(result, x=np.zeros((4, 7, 2, 3), np.float32))
    np.testing.assert_array_equal(found["y"], expected)
    np.testing.assert_array_equal(found["z"], [4, 7])


def test_factors_between_two_casts_stay_what_they_are():
    """Half of a height is no whole number times it."""
    nodes = [
        node("Shape", ["x"], ["s"], start=0, end=1), node("Cast", ["s"], ["f"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["f", "half"], ["m"]), node("Cast", ["m"], ["i"], to=onnx.TensorProto.INT64),
        node("ConstantOfShape", ["i"], ["y"]),
    ]  # fmt: skip
    model = make_model(nodes, {"x": ["n", 2]}, {"y": [None]}, {"half": np.float32(0.5)})
    result, _ = apply_rewrite(model, FoldConstants())
    assert run_model(result, x=np.zeros((8, 2), np.float32))["y"].shape == (4,)


@pytest.mark.parametrize("given", [{"value_float": 0.5}, {"value_floats": [0.5, 0.25]}])
def test_numbers_of_a_constant_node_stay_float32(given):
    nodes = [node("Constant", [], ["c"], **given), node("Neg", ["c"], ["d"]), node("Mul", ["x", "d"], ["y"])]
    model = make_model(nodes, {"x": ["n", 2]}, {"y": ["n", 2]})
    result, _ = apply_rewrite(model, FoldConstants())
    assert op_types(result) == ["Mul"]
    assert [tensor.data_type for tensor in result.graph.initializer] == [onnx.TensorProto.FLOAT]
    x = RNG.standard_normal((3, 2), np.float32)
    np.testing.assert_array_equal(run_model(result, x=x)["y"], run_model(model, x=x)["y"])
