"""What each node errs by itself and in all, against float64 written out by hand and against planted faults."""

from __future__ import annotations

import math
import weakref

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model, node

from convkit.bisection import Runner, compare_runners
from convkit.bisection._lockstep import Lockstep
from convkit.errors import EnvironmentProblem, SettingError
from convkit.graph import MODULE_KEY, apply_rewrite
from convkit.graph.precision import To16Bit

RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 24)).astype(np.float32)
NARROW = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def chain(count: int = 5, scale: dict[int, float] | None = None) -> onnx.ModelProto:
    """Return ``count`` products with square matrices; those in ``scale`` are multiplied by a number."""
    generator = np.random.default_rng(0)
    weights = {f"w{place}": generator.standard_normal((24, 24)).astype(np.float32) / 5 for place in range(count)}
    for place, factor in (scale or {}).items():
        weights[f"w{place}"] *= np.float32(factor)
    names = ["x", *(f"t{place}" for place in range(1, count)), "y"]
    nodes = [
        node("MatMul", [names[place], f"w{place}"], [names[place + 1]], name=f"product{place}")
        for place in range(count)
    ]
    for place, each in enumerate(nodes):
        each.metadata_props.add(key=MODULE_KEY, value=f"layers.{place}")
    return make_model(nodes, {"x": ["n", 24]}, {"y": ["n", 24]}, weights)


def typed(model: onnx.ModelProto, precision: str = "fp16", keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    return apply_rewrite(model, To16Bit(precision, keep))[0]


def relative(reference: np.ndarray, value: np.ndarray) -> float:
    return float(np.linalg.norm(value.astype(np.float64) - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_local_and_accumulated_errors_are_those_of_the_definition(precision):
    model, kind = chain(), NARROW[precision]
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    result = compare_runners(model, [Runner("low", typed(model, precision))], [{"x": X}], shares=0)

    def rounded(value: np.ndarray) -> np.ndarray:
        return value.astype(kind).astype(np.float32)

    exact, own = X.astype(np.float64), X
    for row, weight in zip(result.nodes, weights, strict=True):
        narrow = rounded(weight)
        local, own = rounded(rounded(exact) @ narrow), rounded(rounded(own) @ narrow)
        exact = exact @ weight.astype(np.float64)
        (found,), (accumulated,) = row.local, row.accumulated
        assert found.rel_l2 == pytest.approx(relative(exact, local), rel=0.02)
        assert found.max_abs == pytest.approx(np.abs(local - exact).max(), rel=0.02)
        assert accumulated.rel_l2 == pytest.approx(relative(exact, own), rel=0.02)
        assert row.scale == pytest.approx(np.abs(exact).max())
    assert [row.node for row in result.nodes] == [f"product{place}" for place in range(5)]
    assert result.nodes[2].module == "layers.2"
    assert result.outputs["y"] == result.nodes[-1].accumulated
    assert result.nodes[-1].accumulated[0].rel_l2 > 1.3 * result.nodes[-1].local[0].rel_l2
    assert result.first_parting() is None
    assert result.keep_reasons() == {}


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_the_node_that_differs_is_the_only_one_that_parts(backend):
    model = chain()
    runners = [Runner("right", model), Runner("wrong", chain(scale={2: 1.01}), backend)]
    result = compare_runners(model, runners, [{"x": X}, {"x": X[:1] * 3}])
    first = result.first_parting()
    assert first
    assert first.node == "product2"
    assert first.local[1].rel_l2 == pytest.approx(0.01, rel=1e-3)
    assert [row.node for row in result.nodes if row.parted] == ["product2"]
    assert result.ranked()[0] is first
    after = result.nodes[3]
    assert after.local[1].rel_l2 < 1e-6
    assert after.accumulated[1].rel_l2 == pytest.approx(0.01, rel=1e-2)
    assert first.share == pytest.approx(1.0, rel=1e-2)
    assert result.nodes[0].share < 1e-4
    assert list(result.keep_reasons()) == ["product2"]
    assert "MatMul of layers.2" in result.keep_reasons()["product2"]
    assert result.outputs["y"][1].rel_l2 == pytest.approx(0.01, rel=1e-2)


def test_the_shares_of_independent_errors_add_up_to_all():
    model = chain()
    result = compare_runners(model, [Runner("low", typed(model, "bf16"))], [{"x": X}], shares=None)
    shares = [row.share for row in result.nodes]
    assert all(0.02 < share < 0.9 for share in shares)
    assert 0.6 < sum(shares) < 1.6
    assert result.weights() == {row.node: row.share for row in result.nodes}
    few = compare_runners(model, [Runner("low", typed(model, "bf16"))], [{"x": X}], shares=2)
    measured = [row.node for row in few.nodes if row.share is not None]
    assert sorted(measured) == sorted(row.node for row in few.ranked()[:2])


def test_what_leaves_the_range_of_fp16_is_infinite_where_it_happens():
    model = chain(scale={0: 30, 1: 1e4, 2: 1e-5})
    result = compare_runners(model, [Runner("low", typed(model))], [{"x": X}])
    assert [row.node for row in result.nodes if math.isinf(row.local[0].rel_l2)] == ["product1", "product2"]
    assert [math.isinf(row.accumulated[0].rel_l2) for row in result.nodes] == [False, True, True, True, True]
    reason = result.keep_reasons()["product1"]
    assert "leaves the range of float16" in reason
    document = result.to_json()
    assert document["nodes"][1]["local"] == [{"rel_l2": None, "max_abs": None}]
    assert document["first_parting"] == "product1"
    kept = typed(model, keep=("product1", "product2"))
    assert compare_runners(model, [Runner("low", kept)], [{"x": X}]).first_parting() is None
    assert compare_runners(model, [Runner("low", typed(model, "bf16"))], [{"x": X}]).first_parting() is None


def test_an_output_that_is_also_used_inside_is_one_node():
    nodes = [
        node("MatMul", ["x", "w"], ["middle"], name="first"),
        node("Relu", ["middle"], ["r"], name="relu"),
        node("MatMul", ["r", "w"], ["y"], name="second"),
    ]
    weight = RNG.standard_normal((24, 24)).astype(np.float32)
    model = make_model(nodes, {"x": [3, 24]}, {"middle": [3, 24], "y": [3, 24]}, {"w": weight})
    low = typed(model)
    assert "middle.float16" in {name for each in low.graph.node for name in each.output}
    result = compare_runners(model, [Runner("low", low)], [{"x": X}], shares=3)
    assert [row.tensor for row in result.nodes] == ["middle", "r", "y"]
    exact = X.astype(np.float64) @ weight
    assert result.nodes[1].local[0].rel_l2 < 2**-11
    narrow = X.astype(np.float16).astype(np.float32) @ weight.astype(np.float16).astype(np.float32)
    assert result.nodes[0].local[0].rel_l2 == pytest.approx(relative(exact, narrow.astype(np.float16)), rel=0.02)
    assert set(result.outputs) == {"middle", "y"}
    assert all(0 < row.share < 1.5 for row in result.nodes)


def test_nodes_that_a_runner_has_in_place_of_others_count_as_one():
    model = chain(3)
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    first, second = fused.graph.node[0], fused.graph.node[1]
    second.op_type, second.name = "Gemm", "fused"
    second.input[:] = [first.input[0], "both"]
    w0, w1 = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in fused.graph.initializer[:2])
    fused.graph.initializer.append(numpy_helper.from_array((w0 @ w1 * 1.02).astype(np.float32), "both"))
    del fused.graph.node[0]
    result = compare_runners(model, [Runner("plain", model), Runner("fused", fused)], [{"x": X}])
    assert [row.node for row in result.nodes] == ["product1", "product2"]
    assert result.first_parting().node == "product1"
    assert result.nodes[0].local[1].rel_l2 == pytest.approx(0.02, rel=1e-2)
    assert result.nodes[0].local[0].rel_l2 < 1e-6


def test_decisions_are_counted_and_not_measured():
    nodes = [
        node("MatMul", ["x", "w0"], ["t"], name="product"),
        node("ArgMax", ["t"], ["best"], name="argmax", axis=1, keepdims=0),
        node("Cast", ["best"], ["y"], name="cast", to=TensorProto.FLOAT),
    ]
    weight = RNG.standard_normal((24, 24)).astype(np.float32)
    model = make_model(nodes, {"x": [3, 24]}, {"y": [3]}, {"w0": weight})
    other = make_model(nodes, {"x": [3, 24]}, {"y": [3]}, {"w0": weight})
    other.graph.node[1].op_type = "ArgMin"
    result = compare_runners(model, [Runner("wrong", other)], [{"x": X}])
    (decision,) = result.decisions
    assert (decision.node, decision.operator, decision.runner, decision.share) == ("argmax", "ArgMax", "wrong", 1.0)
    assert [row.node for row in result.nodes] == ["product", "cast"]


def test_what_nothing_computes_in_float64_is_named():
    branch = [
        helper.make_graph(
            [node("Mul", ["t", "two"], [f"{name}_out"], name=f"{name}_mul")],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.float32(factor), "two")],
        )
        for name, factor in (("then", 2.0), ("else", 3.0))
    ]
    nodes = [
        node("MatMul", ["x", "w"], ["t"], name="product"),
        node("ReduceMax", ["t"], ["m"], name="max", keepdims=0),
        node("Greater", ["m", "zero"], ["is"], name="greater"),
        node("If", ["is"], ["y"], name="branch", then_branch=branch[0], else_branch=branch[1]),
    ]
    constants = {"w": RNG.standard_normal((24, 24)).astype(np.float32), "zero": np.float32(0)}
    model = make_model(nodes, {"x": [3, 24]}, {"y": [3, 24]}, constants)
    result = compare_runners(model, [Runner("ort", model, "onnxruntime")], [{"x": X}], shares=0)
    assert result.float32_nodes == ("branch",)
    assert result.outputs["y"][0].rel_l2 < 1e-6
    with pytest.raises(EnvironmentProblem, match="branch"):
        compare_runners(model, [Runner("torch", model)], [{"x": X}], shares=0)


@pytest.mark.parametrize("precision", [None, "fp16"])
def test_values_are_dropped_when_nothing_needs_them_any_more(precision):
    model = chain(20)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def visit(found):
        nonlocal most
        alive.extend(weakref.ref(value) for value in (found.reference, found.local, found.accumulated))
        most = max(most, sum(ref() is not None for ref in alive))

    Lockstep(model, [Runner("it", typed(model) if precision else model)]).run({"x": X}, visit)
    assert len(alive) == 60
    assert most <= 7


def test_a_feed_is_the_same_whatever_the_order_of_a_runner_s_nodes():
    nodes = [
        node("MatMul", ["x", "w"], ["a"], name="left"),
        node("MatMul", ["x", "v"], ["b"], name="right"),
        node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    constants = {name: RNG.standard_normal((24, 24)).astype(np.float32) for name in "wv"}
    model = make_model(nodes, {"x": [3, 24]}, {"y": [3, 24]}, constants)
    turned = make_model([nodes[1], nodes[0], nodes[2]], {"x": [3, 24]}, {"y": [3, 24]}, constants)
    results = [compare_runners(model, [Runner("it", each)], [{"x": X}], shares=0) for each in (model, turned)]
    assert results[0].nodes == results[1].nodes


def test_bad_questions_are_refused():
    model = chain(1)
    with pytest.raises(SettingError, match="0 runners"):
        compare_runners(model, [], [{"x": X}])
    with pytest.raises(SettingError, match="0 samples"):
        compare_runners(model, [Runner("it", model)], [])
    with pytest.raises(SettingError, match="no backend 'nowhere'"):
        compare_runners(model, [Runner("it", model, "nowhere")], [{"x": X}])
