"""16-bit and quantised graphs through NVIDIA's genuine parser and builder: what is built, audited and refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import make_model, node

from convkit.backends import FAILED, PASSED
from convkit.backends.tensorrt import (
    Build,
    ParsedNetwork,
    Task,
    audit,
    check_model,
    find_flavour,
    run_tasks,
    understand,
)
from convkit.backends.tensorrt._backend import TensorRT
from convkit.backends.tensorrt._check import climb
from convkit.graph import apply_rewrite, in_phases
from convkit.graph.precision import To16Bit
from convkit.model import Target
from convkit.plugins import manager

pytest.importorskip("tensorrt_rtx_bindings")
RTX = find_flavour("tensorrt-rtx")
KINDS = {"fp16": "HALF", "bf16": "BF16"}


def weights(*shape: int) -> np.ndarray:
    return (np.random.default_rng(len(shape)).standard_normal(shape) / 3).astype(np.float32)


def typed(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """Return the model as an engine of TensorRT-RTX gets it."""
    target = Target("tensorrt-rtx", precision=precision)
    for _, rewrite in in_phases(manager().gather("convkit_graph_rewrites", adapter="", target=target)):
        if rewrite.phase in ("precision", "target"):
            model, _ = apply_rewrite(model, rewrite)
    onnx.checker.check_model(model, full_check=True)
    return model


SAME = ("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "Gelu", "GlobalAveragePool", "GlobalMaxPool",
        "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "ReduceL1", "ReduceL2",
        "ReduceMax", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
        "Softmax", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Transpose")  # fmt: skip
"""Operators of one tensor."""
WITH: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Add": ([weights(6, 1, 1)], {}),
    "AveragePool": ([], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    "BatchNormalization": ([weights(6), weights(6), weights(6), np.abs(weights(6)) + 0.5], {}),
    "Clip": ([np.float32(-0.5), np.float32(0.7)], {}),
    "Concat": ([weights(2, 6, 8, 8)], {"axis": 1}),
    "Conv": ([weights(4, 6, 3, 3), weights(4)], {"pads": [1, 1, 1, 1]}),
    "ConvTranspose": ([weights(6, 4, 4, 4)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "DepthToSpace": ([], {"blocksize": 1}),
    "Div": ([np.abs(weights(8)) + 0.5], {}),
    "Expand": ([np.array([2, 6, 8, 8])], {}),
    "Gather": ([np.array([2, 0])], {"axis": 2}),
    "InstanceNormalization": ([weights(6), weights(6)], {}),
    "LayerNormalization": ([weights(8), weights(8)], {}),
    "MatMul": ([weights(8, 5)], {}),
    "Max": ([weights(8)], {}),
    "MaxPool": ([], {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "Mul": ([weights(6, 8, 8)], {}),
    "PRelu": ([weights(6, 1, 1)], {}),
    "Pad": ([np.array([0, 0, 1, 1, 0, 0, 1, 1])], {}),
    "Pow": ([np.float32(2)], {}),
    "Reshape": ([np.array([2, -1])], {}),
    "Resize": ([None, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}),
    "Slice": ([np.array([1]), np.array([7]), np.array([2])], {}),
    "Sub": ([weights(8, 8)], {}),
    "Tile": ([np.array([1, 1, 2, 1])], {}),
    "Unsqueeze": ([np.array([1])], {}),
    "Where": ([weights(8)], {}),
}
OPERATORS = [*SAME, *WITH]


def single(op: str) -> onnx.ModelProto:
    """Return a model of one operator behind an activation, so that the parser has no graph input to look at."""
    constants, attributes = WITH.get(op, ([], {}))
    names = ["" if value is None else f"k{place}" for place, value in enumerate(constants)]
    held = {name: value for name, value in zip(names, constants, strict=True) if name}
    inputs = ["a", *names]
    if op == "Where":
        held["mask"], inputs = np.arange(8) > 3, ["mask", "a", *names]
    graph = helper.make_graph(
        [node("Abs", ["x"], ["a"], name="first"), node(op, inputs, ["y"], name="it", **attributes)], op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", KINDS)
def test_every_operator_of_16_bits_is_built_understood_and_audited(precision, tmp_path):
    """No operator is refused, computed in float32 behind our back, or understood as something else."""
    models = {op: typed(single(op), precision) for op in OPERATORS}
    tasks = []
    for op, model in models.items():
        onnx.save(model, tmp_path / f"{op}.onnx")
        tasks.append(Task(tmp_path / f"{op}.onnx", read=True, build=Build(("sm86",))))
    x = np.random.default_rng(0).standard_normal((2, 6, 8, 8)).astype(np.float32)
    wrong = {}
    for (op, model), outcome in zip(models.items(), run_tasks(RTX, tasks), strict=True):
        if outcome.network is None or outcome.plan is None:
            wrong[op] = f"{[str(error) for error in outcome.errors]} {outcome.problem} {outcome.targets}"
            continue
        found, understood = audit(outcome.network, model), understand(outcome.network, model, [{"x": x}])
        assert found is not None
        if found.silent or not understood.passed:
            wrong[op] = f"{[str(layer) for layer in found.silent]} {understood.parting} {understood.not_replayed}"
        kinds = {dtype for dtype in outcome.network.floating_layers() if dtype != "FLOAT"}
        assert kinds == {KINDS[precision]}, op
    assert wrong == {}


def convolutions(precision: str) -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("MaxPool", ["b"], ["c"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Celu", ["c"], ["y"], name="celu"),
    ]
    model = make_model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 4, 4]}, {"w": weights(4, 3, 3, 3)})
    return typed(model, precision)


def parsed(model: onnx.ModelProto, folder: Path) -> ParsedNetwork:
    onnx.save(model, folder / "model.onnx")
    (outcome,) = run_tasks(RTX, [Task(folder / "model.onnx", read=True)])
    assert outcome.network is not None, outcome.errors
    return outcome.network


@pytest.mark.parametrize("precision", KINDS)
def test_the_audit_counts_layers_and_gives_the_reason_of_each_float32_one(precision, tmp_path):
    model = convolutions(precision)
    found = audit(parsed(model, tmp_path), model)
    assert found is not None
    assert found.asked == (precision,)
    assert found.counts[precision] == 3
    assert found.silent == ()
    assert {layer.node for layer in found.kept} == {"celu"}
    assert all("Celu takes no" in layer.reason for layer in found.kept)
    total = 3 + len(found.kept)
    assert str(found) == f"{precision} asked: 3 of {total} layers {precision}, {len(found.kept)} fp32 by policy"


def with_silent_layer(network: ParsedNetwork, node_name: str) -> ParsedNetwork:
    """Return a network one of whose layers makes float32 in place of 16 bits."""
    (layer,) = (layer for layer in network.layers if layer.node == node_name)
    tensors = list(network.tensors)
    tensors[layer.outputs[0]] = replace(tensors[layer.outputs[0]], dtype="FLOAT")
    return replace(network, tensors=tuple(tensors))


def test_a_float32_layer_that_nobody_asked_for_is_named(tmp_path):
    model = convolutions("fp16")
    found = audit(with_silent_layer(parsed(model, tmp_path), "pool"), model)
    assert found is not None
    assert [(layer.type, layer.node) for layer in found.silent] == [("POOLING", "pool")]
    assert "1 fp32 that nobody asked for" in str(found)
    assert found.to_json()["silent"][0]["node"] == "pool"


@pytest.mark.parametrize("strict", [True, False])
def test_it_fails_an_engine_and_is_shown_of_any_other_model(strict, tmp_path, monkeypatch):
    """The parser computes ReduceL2 of float16 in float32: an engine that promised 16 bits is not built of it."""
    model = make_model(
        [node("Cast", ["x"], ["n"], name="in", to=10), node("ReduceL2", ["n", "axes"], ["r"], name="norm"),
         node("Cast", ["r"], ["y"], name="out", to=1)],
        {"x": [2, 8]}, {"y": [2, 1]}, {"axes": np.array([1])},
    )  # fmt: skip
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    feeds = [{"x": weights(2, 8)}]
    ladder, _ = climb(RTX, file, model, Build(("sm86",)), feeds, typed=strict)
    rung = ladder["built"]
    assert rung.status == (FAILED if strict else PASSED)
    assert "of node 'norm'" in rung.summary
    assert {entry["node"] for entry in rung.details["precision"]["silent"]} == {"norm"}


def test_a_build_of_an_engine_is_strict(tmp_path, monkeypatch):
    from convkit.backends import BuildRequest

    model = convolutions("fp16")
    onnx.save(model, tmp_path / "graph.onnx")
    request = BuildRequest(("sm86",), {}, [{"x": weights(1, 3, 8, 8)}])
    assert TensorRT(RTX).build(tmp_path / "graph.onnx", tmp_path, request).ladder["built"].status == PASSED
    from convkit.backends.tensorrt import _check

    genuine = _check.run_tasks

    def tampered(*args: Any, **more: Any) -> Any:
        return [replace(done, network=with_silent_layer(done.network, "relu")) for done in genuine(*args, **more)]

    monkeypatch.setattr(_check, "run_tasks", tampered)
    rung = TensorRT(RTX).build(tmp_path / "graph.onnx", tmp_path, request).ladder["built"]
    assert rung.status == FAILED
    assert "ACTIVATION layer 'relu' of node 'relu'" in rung.summary


def test_a_model_without_16_bit_tensors_has_no_audit(tmp_path):
    model = make_model([node("Relu", ["x"], ["y"])], {"x": [2]}, {"y": [2]})
    assert audit(parsed(model, tmp_path), model) is None


@pytest.mark.parametrize("precision", KINDS)
@pytest.mark.parametrize(("name", "factor"), [("conv", 1.002), ("conv", 0.0)])
def test_small_faults_of_weights_are_understood_in_16_bits(precision, name, factor, tmp_path):
    """A factor of 1.002 is less than a rounding step of bfloat16: it is seen since both sides compute in float32."""
    model = convolutions(precision)
    network = parsed(model, tmp_path)
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert understand(network, model, [{"x": x}]).passed
    tensor = next(t for t in model.graph.initializer if t.name.startswith("w"))
    values = numpy_helper.to_array(tensor).astype(np.float32)
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    (held,) = (t for t in spoilt.graph.initializer if t.name == tensor.name)
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    changed = (values * factor).astype(kind)
    if np.array_equal(changed, values.astype(kind)):
        changed.reshape(-1)[0] = values.reshape(-1)[0] * 1.05
    held.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    found = understand(network, spoilt, [{"x": x}])
    assert not found.passed
    assert found.parting is not None
    assert found.parting.operator == "Conv"


def test_outputs_of_another_16_bit_type_are_found(tmp_path):
    model = make_model([node("Cast", ["x"], ["n"], to=10), node("Relu", ["n"], ["y"])], {"x": [4]}, {})
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT16, [4]))
    network = parsed(model, tmp_path)
    assert understand(network, model, [{"x": weights(4)}]).passed
    index = network.outputs[0]
    tensors = [replace(t, dtype="BF16") if place == index else t for place, t in enumerate(network.tensors)]
    found = understand(replace(network, tensors=tuple(tensors)), model, [{"x": weights(4)}])
    assert "HALF is expected, and BF16 is built" in str(found.parting)


@pytest.mark.parametrize(
    ("make", "targets", "hint"),
    [
        (lambda: convolutions("bf16"), ["sm75", "sm86"], "use fp16, or leave sm75 out (--target sm86)"),
        (lambda: convolutions("bf16"), ["sm75"], "bfloat16 needs compute capability 8.0: use fp16."),
        (lambda: make_model([node("Gemm", ["x", "w"], ["y"])], {"x": [2, 8]}, {"y": [2, 4]}, {"w": weights(8, 4)}),
         ["sm75", "sm86"], "products of float32 matrices need compute capability 8.0: use fp16, or leave sm75 out"),
    ],
)  # fmt: skip
def test_what_a_target_lacks_is_refused_with_a_remedy(make, targets, hint, tmp_path):
    model = make()
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    ladder = check_model(file, model, targets=targets)
    assert ladder["built"].status == FAILED
    assert ladder.exit_code == 3
    assert hint in ladder["built"].details["hint"]


class Reader:
    """Calibration data of one input."""

    def __init__(self, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.feeds, None)


def quantised(folder: Path, *, symmetric: bool) -> Path:
    """Return a small network quantised to int8, in the QDQ form, per channel, by ONNX Runtime's tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Data(Reader, CalibrationDataReader):
        pass

    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["c"], name="relu"),
        node("Conv", ["c", "v"], ["d"], name="second"),
        node("Sigmoid", ["d"], ["y"], name="sigmoid"),
    ]
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4), "v": weights(2, 4, 1, 1)}
    model = make_model(nodes, {"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 8, 8]}, constants)
    source, result = folder / "float.onnx", folder / "int8.onnx"
    onnx.save(model, source)
    feeds = [{"x": np.random.default_rng(seed).standard_normal((2, 3, 8, 8)).astype(np.float32)} for seed in range(4)]
    quantize_static(
        source, result, Data(feeds), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    return result


def test_an_int8_graph_is_built_and_understood(tmp_path):
    file = quantised(tmp_path, symmetric=True)
    model = onnx.load(file)
    assert {each.op_type for each in model.graph.node} >= {"QuantizeLinear", "DequantizeLinear", "Conv"}
    ladder = check_model(file, model, targets=["sm75,sm86,sm89,sm120"], shapes=["n=1:2:4"])
    assert {name: ladder[name].status for name in ("accepted", "understood", "built")} == dict.fromkeys(
        ("accepted", "understood", "built"), PASSED
    ), ladder.to_json()


def test_an_asymmetric_zero_point_is_refused_with_a_remedy(tmp_path):
    file = quantised(tmp_path, symmetric=False)
    ladder = check_model(file, onnx.load(file), targets=["sm86"], shapes=["n=1:2:4"])
    assert ladder["accepted"].status == FAILED
    assert ladder.exit_code == 3
    assert "Quantise symmetrically" in ladder["accepted"].details["hint"]


@pytest.mark.parametrize("precision", KINDS)
def test_float32_islands_are_made_once(precision):
    model = typed(single("ConvTranspose"), precision)
    casts = [each.op_type for each in model.graph.node].count("Cast")
    assert casts == {"fp16": 2, "bf16": 4}[precision]
    again = model
    target = Target("tensorrt-rtx", precision=precision)
    for _, rewrite in in_phases(manager().gather("convkit_graph_rewrites", adapter="", target=target)):
        if rewrite.phase == "target":
            again, record = apply_rewrite(again, rewrite)
            assert record.fired == 0
    assert again is model


def test_the_policy_leaves_nothing_that_turing_lacks_to_chance(tmp_path):
    """float16 matrix products run on compute capability 7.5, where float32 ones do not."""
    plain = make_model([node("Gemm", ["x", "w"], ["y"])], {"x": [2, 8]}, {"y": [2, 4]}, {"w": weights(8, 4)})
    model, _ = apply_rewrite(plain, To16Bit("fp16"))
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    assert check_model(file, model, targets=["sm75"])["built"].status == PASSED
