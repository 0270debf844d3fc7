"""Typing a graph: what becomes 16-bit, what stays float32 and why, and that the result computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model, node, op_types, run_model

from convkit.backends import open_session
from convkit.errors import SettingError
from convkit.graph import PRECISION_KEY, RewriteRecord, apply_rewrite, metadata_of
from convkit.graph.precision import To16Bit

PRECISIONS = ["fp16", "bf16"]
NUMBERS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
UNIT = {"fp16": 2.0**-10, "bf16": 2.0**-7}
RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def typed(model: onnx.ModelProto, precision: str) -> tuple[onnx.ModelProto, RewriteRecord]:
    """Return the typed model, checked, and the record; a second application must change nothing."""
    result, record = apply_rewrite(model, To16Bit(precision))
    onnx.checker.check_model(result, full_check=True)
    again, second = apply_rewrite(result, To16Bit(precision))
    assert second.fired == 0, "it is not idempotent"
    assert again is result
    return result, record


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    return values | {tensor.name: tensor.data_type for tensor in graph.initializer}


def result_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of the first result of each node by the node's name."""
    types = types_of(model)
    return {each.name: types[each.output[0]] for each in model.graph.node}


def reasons(model: onnx.ModelProto) -> dict[str, str]:
    return {each.name: text for each in model.graph.node if (text := metadata_of(each, PRECISION_KEY))}


def assert_near(model: onnx.ModelProto, result: onnx.ModelProto, precision: str, folder: Path, **feeds: Any) -> None:
    """Compare the typed graph, run by PyTorch in its own types, with ONNX Runtime on the float32 graph."""
    path = folder / "typed.onnx"
    path.write_bytes(result.SerializeToString())
    found, expected = open_session("torch", path).run(feeds), run_model(model, **feeds)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=0, atol=6 * UNIT[precision] * max(1, np.abs(value).max()))


def convolutions() -> onnx.ModelProto:
    """Two convolutions with an activation between, one of whose results is also an output."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["middle"], name="relu"),
        node("Conv", ["middle", "w2"], ["y"], name="second"),
    ]
    constants = {"w1": weights(4, 3, 3, 3) / 5, "b1": weights(4), "w2": weights(2, 4, 1, 1)}
    return make_model(nodes, {"x": ["n", 3, 8, 8]}, {"middle": ["n", 4, 8, 8], "y": ["n", 2, 8, 8]}, constants)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_and_activations_become_16_bit_and_the_edges_stay_float32(precision, tmp_path):
    model = convolutions()
    result, record = typed(model, precision)
    assert record.fired == 3
    assert record.near_misses == []
    kinds = result_types(result)
    assert {kinds[name] for name in ("first", "relu", "second")} == {NUMBERS[precision]}
    assert {tensor.data_type for tensor in result.graph.initializer} == {NUMBERS[precision]}
    for value, before in zip(
        (*result.graph.input, *result.graph.output), (*model.graph.input, *model.graph.output), strict=True
    ):
        assert value == before, "inputs and outputs keep name, type and shape"
    assert op_types(result).count("Cast") == 3, "one Cast for the input and one for each output"
    assert_near(model, result, precision, tmp_path, x=weights(2, 3, 8, 8))


def test_weights_are_rounded_to_the_nearest():
    values = {"w1": 1 + 2.0**-11 * 1.01, "b1": 1 + 2.0**-8 * 1.01}
    model = make_model(
        [node("Mul", ["x", "w1"], ["m"], name="m"), node("Mul", ["m", "b1"], ["y"], name="y")],
        {"x": [2]}, {"y": [2]}, {name: np.float32(value) for name, value in values.items()},
    )  # fmt: skip
    for precision, expected in (("fp16", [1 + 2.0**-10, 1 + 2.0**-8 + 0 * 2.0**-10]), ("bf16", [1.0, 1 + 2.0**-7])):
        result, _ = typed(model, precision)
        stored = [numpy_helper.to_array(tensor).astype(np.float64).item() for tensor in result.graph.initializer]
        assert stored == pytest.approx(expected, abs=2.0**-12)


def test_bfloat16_raises_the_opset_to_the_first_that_has_it():
    model = convolutions()
    assert typed(model, "fp16")[0].opset_import[0].version == 20
    result, _ = typed(model, "bf16")
    assert result.opset_import[0].version == 22
    assert result.ir_version >= 10


@pytest.mark.parametrize(("opset", "changed"), [(20, "GridSample"), (18, "Conv")])
def test_where_the_opset_cannot_be_raised_bfloat16_stays_out_of_convolutions(opset, changed):
    nodes = [node("Conv", ["x", "w"], ["c"], name="conv"), node("Relu", ["c"], ["y"], name="relu")]
    inputs = {"x": [1, 3, 8, 8]}
    outputs = {"y": [1, 4, 6, 6]}
    if changed == "GridSample":
        nodes[1] = node("GridSample", ["c", "grid"], ["y"], name="sample", mode="linear")
        inputs["grid"], outputs["y"] = [1, 6, 6, 2], [1, 4, 6, 6]
    model = make_model(nodes, inputs, outputs, {"w": weights(4, 3, 3, 3)}, opset=opset)
    result, record = apply_rewrite(model, To16Bit("bf16"))
    onnx.checker.check_model(result, full_check=True)
    assert result.opset_import[0].version == opset
    assert any(text == f"conv: Conv takes no bfloat16 in opset {opset}" for text in record.near_misses)


def peaks() -> onnx.ModelProto:
    """A peak test as detectors have it: a heat map, its maxima, the best of these, values gathered there, two heads."""
    nodes = [
        node("Conv", ["x", "w0"], ["features"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["features"], ["active"], name="stem_relu"),
        node("Conv", ["active", "w1"], ["heat"], name="heat"),
        node("Conv", ["active", "w2"], ["sizes"], name="sizes"),
        node("MaxPool", ["heat"], ["highest"], name="pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Equal", ["heat", "highest"], ["peak"], name="equal"),
        node("Where", ["peak", "heat", "low"], ["peaks"], name="where"),
        node("Reshape", ["peaks", "flat"], ["row"], name="row"),
        node("TopK", ["row", "k"], ["best", "places"], name="top"),
        node("Sigmoid", ["best"], ["scores"], name="scores"),
        node("Reshape", ["sizes", "flat"], ["size_row"], name="size_row"),
        node("GatherElements", ["size_row", "places"], ["found"], name="found", axis=1),
    ]
    constants = {
        "w0": weights(4, 3, 3, 3) / 5, "w1": weights(1, 4, 1, 1), "w2": weights(1, 4, 1, 1) + 1,
        "low": np.float32(-1e4), "flat": np.array([0, -1]), "k": np.array([5]),
    }  # fmt: skip
    return make_model(nodes, {"x": [1, 3, 12, 12]}, {"scores": [1, 5], "found": [1, 5]}, constants)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_and_the_peak_test_are_float32_from_the_operator_with_weights_on(precision):
    result, record = typed(peaks(), precision)
    kinds, kept = result_types(result), reasons(result)
    for name in ("stem", "stem_relu", "sizes", "size_row"):
        assert kinds[name] == NUMBERS[precision], name
        assert name not in kept
    for name in ("heat", "pool", "where", "row", "top", "scores", "found"):
        assert kinds[name] == TensorProto.FLOAT, name
    assert kept["heat"] == "Equal 'equal' decides on its result"
    assert kept["pool"] == "Equal 'equal' decides on its result"
    assert "decides" in kept["equal"]
    assert kept["scores"].startswith("it follows from the decision of ")
    assert sorted(record.near_misses) == sorted(f"{name}: {text}" for name, text in kept.items())
    types = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert types["w1"] == TensorProto.FLOAT, "the weights of the heat map keep their bits"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_best_places_are_those_of_float32(precision, tmp_path):
    """Without the float32 island, 16 bits make scores equal that are not."""
    model = peaks()
    assert_near(model, typed(model, precision)[0], precision, tmp_path, x=weights(1, 3, 12, 12) * 2)


def test_what_follows_a_decision_is_16_bit_again_behind_the_next_convolution():
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="before"),
        node("Greater", ["a", "zero"], ["mask"], name="mask"),
        node("Where", ["mask", "a", "zero"], ["kept"], name="where"),
        node("Conv", ["kept", "v"], ["b"], name="after"),
        node("Relu", ["b"], ["y"], name="relu"),
    ]
    constants = {"w": weights(4, 3, 1, 1), "v": weights(2, 4, 1, 1), "zero": np.float32(0)}
    result, _ = typed(make_model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 2, 4, 4]}, constants), "fp16")
    kinds = result_types(result)
    assert kinds["before"] == kinds["where"] == TensorProto.FLOAT
    assert kinds["after"] == kinds["relu"] == TensorProto.FLOAT16


def test_a_decision_on_shapes_and_whole_numbers_is_none():
    """Comparing integers, and sizes that are computed from shapes, leave the network 16-bit."""
    nodes = [
        node("Shape", ["x"], ["shape"], name="shape", start=2, end=4),
        node("Cast", ["shape"], ["sizes"], name="sizes", to=TensorProto.FLOAT),
        node("Mul", ["sizes", "half"], ["halves"], name="halves"),
        node("Cast", ["halves"], ["target"], name="target", to=TensorProto.INT64),
        node("Concat", ["head", "target"], ["wanted"], name="wanted", axis=0),
        node("Resize", ["x", "", "", "wanted"], ["small"], name="resize", mode="linear"),
        node("Conv", ["small", "w"], ["y"], name="conv"),
    ]
    constants = {"half": np.float32(0.5), "head": np.array([1, 3]), "w": weights(2, 3, 1, 1)}
    result, _ = typed(make_model(nodes, {"x": [1, 3, "h", "w"]}, {"y": [1, 2, None, None]}, constants), "fp16")
    kinds, kept = result_types(result), reasons(result)
    assert kinds["resize"] == kinds["conv"] == TensorProto.FLOAT16
    assert kinds["halves"] == TensorProto.FLOAT
    assert kept["halves"] == "it computes from shapes and constants alone"
    assert "resize" not in kept


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scales_of_a_resize_and_parameters_of_a_normalisation_stay_float32(precision, tmp_path):
    nodes = [
        node("Resize", ["x", "", "scales"], ["big"], name="resize", mode="nearest"),
        node("BatchNormalization", ["big", "s", "b", "m", "v"], ["y"], name="norm"),
    ]
    constants = {
        "scales": np.array([1, 1, 2, 2], np.float32), "s": weights(3), "b": weights(3), "m": weights(3),
        "v": np.abs(weights(3)) + 1,
    }  # fmt: skip
    model = make_model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 8, 8]}, constants)
    result, record = typed(model, precision)
    assert record.fired == 2
    assert {tensor.data_type for tensor in result.graph.initializer} == {TensorProto.FLOAT}
    assert_near(model, result, precision, tmp_path, x=weights(1, 3, 4, 4))


def test_an_operator_that_does_not_take_the_type_stays_float32(tmp_path):
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("Celu", ["a"], ["b"], name="celu", alpha=0.5),
        node("Tanh", ["b"], ["y"], name="tanh"),
    ]
    model = make_model(nodes, {"x": [4]}, {"y": [4]})
    result, record = typed(model, "fp16")
    assert record.near_misses == ["celu: Celu takes no float16 in opset 20"]
    kinds = result_types(result)
    assert (kinds["relu"], kinds["celu"], kinds["tanh"]) == (10, 1, 10)
    assert_near(model, result, "fp16", tmp_path, x=weights(4))


def test_an_operator_of_another_domain_and_what_its_unknown_type_reaches_stay_as_they_are():
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("Mystery", ["a"], ["b"], name="mystery", domain="test.elsewhere"),
        node("Tanh", ["b"], ["y"], name="tanh"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [4])], [helper.make_tensor_value_info("y", 1, [4])]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("test.elsewhere", 1)]
    result, record = apply_rewrite(helper.make_model(graph, opset_imports=opsets, ir_version=9), To16Bit("fp16"))
    assert record.fired == 1
    assert record.near_misses == ["mystery: the type of 'b' is not known", "tanh: the type of 'b' is not known"]
    (mystery,) = (each for each in result.graph.node if each.op_type == "Mystery")
    (cast,) = (each for each in result.graph.node if each.output[0] == mystery.input[0])
    assert helper.get_node_attr_value(cast, "to") == TensorProto.FLOAT


@pytest.mark.parametrize(
    ("value", "fits", "reason"),
    [
        (65504.0, True, ""),
        (65519.0, True, ""),
        (7e4, False, "w has 70000, beyond 65504"),
        (-1e9, False, "w has 1e+09, beyond 65504"),
        (-np.inf, True, ""),
        (1e-12, False, "w has 1e-12 at most, which becomes 0"),
        (0.0, True, ""),
        (6e-8, False, "w has 6e-08 at most, which is subnormal in float16"),
        (6.2e-5, True, ""),
    ],
)
def test_a_constant_that_overflows_or_vanishes_keeps_its_node_float32(value, fits, reason):
    nodes = [node("Relu", ["x"], ["a"], name="relu"), node("Add", ["a", "w"], ["y"], name="add")]
    model = make_model(nodes, {"x": [2]}, {"y": [2]}, {"w": np.float32(value)})
    result, record = typed(model, "fp16")
    assert result_types(result)["add"] == (TensorProto.FLOAT16 if fits else TensorProto.FLOAT)
    assert record.near_misses == ([] if fits else [f"add: {reason}"])
    for tensor in result.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all() == np.isfinite(value)


def test_bfloat16_has_the_range_of_float32():
    nodes = [node("Relu", ["x"], ["a"], name="relu"), node("Add", ["a", "w"], ["y"], name="add")]
    assert typed(make_model(nodes, {"x": [2]}, {"y": [2]}, {"w": np.float32(-1e9)}), "bf16")[1].near_misses == []


def test_a_weight_that_both_types_read_is_stored_in_both():
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="narrow"),
        node("Conv", ["x", "w"], ["b"], name="scores"),
        node("ArgMax", ["b"], ["best"], name="argmax", axis=1),
        node("Cast", ["best"], ["z"], name="cast", to=TensorProto.FLOAT),
    ]
    model = make_model(nodes, {"x": [1, 3, 4, 4]}, {"a": [1, 2, 4, 4], "z": [1, 1, 4, 4]}, {"w": weights(2, 3, 1, 1)})
    result, _ = typed(model, "fp16")
    inputs = {each.name: each.input[1] for each in result.graph.node if each.op_type == "Conv"}
    types = types_of(result)
    assert types[inputs["narrow"]] == TensorProto.FLOAT16
    assert types[inputs["scores"]] == TensorProto.FLOAT


def test_whole_numbers_that_become_floating_stay_float32():
    """2049 is no float16, so that places would move; booleans are 0 and 1 in any type."""
    nodes = [
        node("Cast", ["i"], ["f"], name="places", to=TensorProto.FLOAT),
        node("Add", ["f", "x"], ["a"], name="add"),
        node("Cast", ["flags"], ["g"], name="flags", to=TensorProto.FLOAT),
        node("Mul", ["a", "g"], ["y"], name="mul"),
    ]
    values = [("i", TensorProto.INT64), ("flags", TensorProto.BOOL), ("x", TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, kind, [4]) for name, kind in values],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    result, record = typed(model, "fp16")
    assert record.near_misses == ["places: its whole numbers are more than 16 bits can tell apart"]
    kinds = result_types(result)
    assert (kinds["places"], kinds["flags"], kinds["add"], kinds["mul"]) == (1, 10, 10, 10)


@pytest.mark.parametrize("form", ["node", "scalar", "list"])
def test_constants_that_are_nodes_become_16_bit(form, tmp_path):
    given: dict[str, Any] = {
        "node": {"value": numpy_helper.from_array(np.float32([1.5, 2.5]))},
        "scalar": {"value_float": 1.5},
        "list": {"value_floats": [1.5, 2.5]},
    }[form]
    nodes = [node("Constant", [], ["c"], name="constant", **given), node("Mul", ["x", "c"], ["y"], name="mul")]
    model = make_model(nodes, {"x": [2]}, {"y": [2]})
    result, record = typed(model, "fp16")
    assert record.fired == 1
    assert result_types(result)["mul"] == TensorProto.FLOAT16
    assert_near(model, result, "fp16", tmp_path, x=weights(2))


def branches() -> onnx.ModelProto:
    """An If whose branches read a tensor from around them, which 16-bit nodes make and read."""
    branch = [
        helper.make_graph(
            [node(op, ["a"], [f"{op}_out"], name=op)], op, [], [helper.make_tensor_value_info(f"{op}_out", 1, [4])]
        )
        for op in ("Neg", "Exp")
    ]
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("If", ["flag"], ["chosen"], name="if", then_branch=branch[0], else_branch=branch[1]),
        node("Add", ["chosen", "a"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", 1, [4]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", 1, [4])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("flag", [False, True])
def test_graphs_inside_of_nodes_read_float32_as_before(flag):
    model = branches()
    result, record = typed(model, "fp16")
    assert record.near_misses == ["if: it contains a graph of its own"]
    assert result_types(result)["relu"] == result_types(result)["add"] == TensorProto.FLOAT16
    feeds: dict[str, Any] = {"x": weights(4), "flag": np.array(flag)}
    np.testing.assert_allclose(run_model(result, **feeds)["y"], run_model(model, **feeds)["y"], rtol=4e-3, atol=1e-3)


def test_positions_and_what_computes_them_stay_float32():
    nodes = [
        node("Conv", ["x", "w"], ["offsets"], name="offsets"),
        node("Transpose", ["offsets"], ["last"], name="last", perm=[0, 2, 3, 1]),
        node("Add", ["last", "centres"], ["grid"], name="grid"),
        node("Relu", ["x"], ["features"], name="features"),
        node("GridSample", ["features", "grid"], ["y"], name="sample"),
    ]
    constants = {"w": weights(2, 3, 1, 1), "centres": weights(1, 4, 4, 2)}
    result, _ = typed(make_model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}, constants), "fp16")
    kinds = result_types(result)
    assert kinds["offsets"] == kinds["features"] == TensorProto.FLOAT16
    assert kinds["last"] == kinds["grid"] == kinds["sample"] == TensorProto.FLOAT
    assert reasons(result)["grid"] == "GridSample 'sample' samples at its result"


def test_a_graph_of_whole_numbers_is_left_alone():
    graph = helper.make_graph(
        [node("Add", ["x", "x"], ["y"], name="add")], "g",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [2])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [2])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    result, record = apply_rewrite(model, To16Bit("bf16"))
    assert result is model
    assert (record.fired, record.near_misses) == (0, [])


def test_nothing_is_printed(capfd):
    typed(convolutions(), "bf16")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["int8", "fp8", "half"])
def test_other_precisions_are_refused(name):
    with pytest.raises(SettingError, match=f"precision cannot be '{name}'") as caught:
        To16Bit(name)
    assert "fp32, fp16, bf16" in caught.value.hint


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nodes_kept_by_name_stay_float32(precision, tmp_path):
    model = convolutions()
    result, record = apply_rewrite(model, To16Bit(precision, keep=["second"]))
    assert result_types(result) | {"second": TensorProto.FLOAT} == result_types(result)
    assert result_types(result)["first"] == NUMBERS[precision]
    assert reasons(result)["second"] == "it is kept by name"
    assert record.near_misses == ["second: it is kept by name"]
    assert apply_rewrite(result, To16Bit(precision, keep=["second"]))[1].fired == 0
    assert_near(model, result, precision, tmp_path, x=RNG.standard_normal((2, 3, 8, 8)).astype(np.float32))


def test_all_kept_is_the_model_itself():
    model = convolutions()
    result, record = apply_rewrite(model, To16Bit("fp16", keep=[each.name for each in model.graph.node]))
    assert record.fired == 0
    assert result is model


def test_names_to_keep_that_no_node_has_are_refused():
    with pytest.raises(SettingError) as caught:
        apply_rewrite(convolutions(), To16Bit("fp16", keep=["secnd", "first"]))
    assert "'secnd'" in caught.value.message
    assert "'first'" not in caught.value.message
    assert "Did you mean 'second'?" in caught.value.hint
