"""Folding BatchNormalization into DeformConv: the numbers stay, the near misses say why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from convkit.graph import apply_rewrite
from convkit_plugins.dcnv2.export import FoldBatchNorm

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 7)).astype(np.float32)
PARAMETERS = {
    "dcn.weight": RNG.standard_normal((3, 4, 3, 3)) / 6,
    "dcn.bias": RNG.standard_normal(3),
    "offset": RNG.standard_normal((2, 18, 6, 7)) * 2,
    "mask": RNG.uniform(size=(2, 9, 6, 7)),
    "bn.weight": RNG.uniform(0.5, 1.5, 3),
    "bn.bias": RNG.standard_normal(3),
    "bn.mean": RNG.standard_normal(3),
    "bn.var": RNG.uniform(0.1, 2, 3),
}
BN = ["bn.weight", "bn.bias", "bn.mean", "bn.var"]


def deform(name: str, output: str, *, bias: str = "dcn.bias", mask: str = "mask", x: str = "x") -> onnx.NodeProto:
    inputs = [x, "dcn.weight", "offset", bias, mask]
    while not inputs[-1]:
        inputs.pop()
    return helper.make_node("DeformConv", inputs, [output], name=name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def batch_norm(name: str, x: str, output: str, parameters: list[str] = BN, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("BatchNormalization", [x, *parameters], [output], name=name, epsilon=1e-3, **attributes)


def make_model(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",), fed: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Return a model over X; the PARAMETERS in ``fed`` are inputs of the graph, the others constants."""
    arrays = {name: value.astype(np.float32) for name, value in PARAMETERS.items()}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, arrays[name].shape) for name in fed]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 3, 6, 7)) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in fed],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    """Run the model as it is: optimisations of ONNX Runtime itself are off."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {i.name: X if i.name == "x" else PARAMETERS[i.name].astype(np.float32) for i in session.get_inputs()}
    return session.run(None, feeds)


def fold(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Any]:
    result, record = apply_rewrite(model, FoldBatchNorm())
    onnx.checker.check_model(result, full_check=True)
    return result, record


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("mask", ["mask", ""])
@pytest.mark.parametrize("bias", ["dcn.bias", ""])
def test_the_numbers_stay(bias: str, mask: str) -> None:
    model = make_model(deform("dcn", "d", bias=bias, mask=mask), batch_norm("bn", "d", "y"))
    before = model.SerializeToString()
    folded, record = fold(model)
    assert record.fired == 1
    assert not record.near_misses
    assert ops(folded) == ["DeformConv"]
    np.testing.assert_allclose(run(folded)[0], run(model)[0], rtol=0, atol=5e-6)
    assert model.SerializeToString() == before


def test_constants_equal_the_formula_rounded_once_and_keep_their_names() -> None:
    folded, _ = fold(make_model(deform("dcn", "d"), batch_norm("bn", "d", "y")))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in folded.graph.initializer}
    single = {name: value.astype(np.float32).astype(np.float64) for name, value in PARAMETERS.items()}
    scale = single["bn.weight"] / np.sqrt(single["bn.var"] + np.float64(np.float32(1e-3)))
    weight = single["dcn.weight"] * scale[:, None, None, None]
    bias = (single["dcn.bias"] - single["bn.mean"]) * scale + single["bn.bias"]
    np.testing.assert_array_max_ulp(constants["dcn.weight.folded"], weight.astype(np.float32), maxulp=1)
    np.testing.assert_allclose(constants["dcn.bias.folded"], bias, rtol=2e-7)
    assert constants["dcn.weight.folded"].dtype == constants["dcn.bias.folded"].dtype == np.float32


def test_an_absent_bias_is_named_after_the_weight() -> None:
    folded, _ = fold(make_model(deform("dcn", "d", bias=""), batch_norm("bn", "d", "y")))
    assert list(folded.graph.node[0].input) == ["x", "dcn.weight.folded", "offset", "dcn.weight.bias.folded", "mask"]


def test_a_second_run_changes_nothing() -> None:
    folded, _ = fold(make_model(deform("dcn", "d"), batch_norm("bn", "d", "y")))
    again, record = fold(folded)
    assert record.fired == 0
    assert again.SerializeToString() == folded.SerializeToString()


def test_two_layers_that_share_a_weight_are_folded_apart() -> None:
    model = make_model(
        deform("first", "d1"),
        batch_norm("bn1", "d1", "y1"),
        deform("second", "d2"),
        batch_norm("bn2", "d2", "y2", ["bn.var", "bn.bias", "bn.mean", "bn.weight"]),
        deform("third", "y3"),
        outputs=("y1", "y2", "y3"),
    )
    folded, record = fold(model)
    assert record.fired == 2
    weights = [node.input[1] for node in folded.graph.node]
    assert weights == ["dcn.weight.folded", "dcn.weight.folded.2", "dcn.weight"]
    for actual, expected in zip(run(folded), run(model), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)


def test_two_normalisations_in_a_row_are_both_folded() -> None:
    model = make_model(deform("dcn", "d"), batch_norm("bn1", "d", "e"), batch_norm("bn2", "e", "y"))
    folded, record = fold(model)
    assert record.fired == 2
    assert ops(folded) == ["DeformConv"]
    np.testing.assert_allclose(run(folded)[0], run(model)[0], rtol=0, atol=1e-5)


def identity(x: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [x], [output], name=f"identity_{output}")


MISSES: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "output of the graph": (
        lambda: make_model(deform("dcn", "d"), batch_norm("bn", "d", "y"), outputs=("y", "d")),
        "bn: the result of dcn is an output of the graph, too",
    ),
    "another consumer": (
        lambda: make_model(deform("dcn", "d"), batch_norm("bn", "d", "y"), identity("d", "z"), outputs=("y", "z")),
        "bn: the result of dcn has 2 consumers",
    ),
    "computed statistics": (
        lambda: make_model(deform("dcn", "d"), batch_norm("bn", "d", "y"), fed=("bn.var",)),
        "bn: a parameter of the BatchNormalization is computed in the graph",
    ),
    "computed weight": (
        lambda: make_model(deform("dcn", "d"), batch_norm("bn", "d", "y"), fed=("dcn.weight",)),
        "bn: weight or bias of dcn is computed in the graph",
    ),
    "computed bias": (
        lambda: make_model(deform("dcn", "d"), batch_norm("bn", "d", "y"), fed=("dcn.bias",)),
        "bn: weight or bias of dcn is computed in the graph",
    ),
    "training": (
        lambda: make_model(
            deform("dcn", "d"),
            helper.make_node(
                "BatchNormalization", ["d", *BN], ["y", "new.mean", "new.var"], name="bn", training_mode=1
            ),
        ),
        "bn: the BatchNormalization is in training mode: its statistics depend on the input",
    ),
}


@pytest.mark.parametrize("case", MISSES)
def test_what_cannot_be_folded_is_left_alone_with_a_reason(case: str) -> None:
    build, reason = MISSES[case]
    model = build()
    result, record = fold(model)
    assert record.fired == 0
    assert record.near_misses == [reason]
    assert result.SerializeToString() == model.SerializeToString()


def test_normalisations_elsewhere_are_no_candidates() -> None:
    convolution = helper.make_node("Conv", ["x", "dcn.weight"], ["c"], pads=[1, 1, 1, 1], name="conv")
    model = make_model(convolution, batch_norm("bn", "c", "y"))
    _, record = fold(model)
    assert record.fired == 0
    assert not record.near_misses
