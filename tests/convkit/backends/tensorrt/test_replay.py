"""The replay: it computes what a network says, and says what it cannot replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace as changed
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from convkit.backends.tensorrt import (
    NotReplayed,
    ParsedLayer,
    ParsedNetwork,
    ParsedTensor,
    ReplayError,
    Task,
    find_flavour,
    missing_replays,
    replay,
    run_tasks,
    understand,
)
from convkit.backends.tensorrt._network import Weights

pytest.importorskip("tensorrt_rtx_bindings")
RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def zoo() -> onnx.ModelProto:
    """Return a model in which every setting of a layer changes an output."""
    held: list[onnx.TensorProto] = []

    def keep(array: Any) -> str:
        held.append(numpy_helper.from_array(np.asarray(array), f"k{len(held)}"))
        return held[-1].name

    grid = RNG.uniform(-1.6, 1.6, (1, 4, 5, 2)).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", keep(normal(4, 2, 3, 2)), keep(normal(4))], ["conv"], strides=[2, 1], pads=[1, 0, 0, 2],
             dilations=[1, 2], group=2),
        node("ConvTranspose", ["x", keep(normal(4, 3, 3, 2))], ["deconv"], strides=[2, 3], pads=[1, 0, 0, 1]),
        node("MaxPool", ["x"], ["max_pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1]),
        node("AveragePool", ["x"], ["mean_pool"], kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1),
        node("LeakyRelu", ["x"], ["leaky"], alpha=0.3),
        node("HardSigmoid", ["x"], ["hard"], alpha=0.3, beta=0.4),
        node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]),
        node("Reshape", ["x", keep(np.array([1, 7, 4, 6]))], ["reshaped"]),
        node("Slice", ["x", keep([1, 5]), keep([4, 0]), keep([1, 3]), keep([1, -2])], ["sliced"]),
        node("Pad", ["x", keep([0, 0, 2, 1, 0, 0, 1, 2])], ["padded"], mode="reflect"),
        node("Gather", ["x", keep(np.array([3, 0]))], ["gathered"], axis=1),
        node("GatherElements", ["x", keep(RNG.integers(0, 6, (1, 4, 6, 7)))], ["elements"], axis=2),
        node("ReduceSum", ["x", keep(np.array([1, 3]))], ["summed"]),
        node("Softmax", ["x"], ["soft"], axis=2),
        node("TopK", ["x", keep(np.array([2]))], ["top", "where"], axis=3),
        node("MatMul", ["x", keep(normal(7, 7))], ["product"]),
        node("GridSample", ["x", keep(grid)], ["sampled"], mode="linear", padding_mode="zeros", align_corners=0),
        node("Resize", ["x", "", "", keep(np.array([1, 4, 9, 11]))], ["resized"], mode="linear",
             coordinate_transformation_mode="half_pixel"),
        node("Resize", ["x", "", "", keep(np.array([1, 4, 9, 11]))], ["nearest"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("Resize", ["x", "", "", keep(np.array([1, 4, 9, 11]))], ["cubic"], mode="cubic", cubic_coeff_a=-0.5),
        node("InstanceNormalization", ["x", keep(normal(4)), keep(normal(4))], ["normal"], epsilon=0.1),
        node("CumSum", ["x", keep(np.int64(2))], ["running"], exclusive=0, reverse=0),
        node("LRN", ["x"], ["local"], size=3, alpha=0.2, beta=0.6, bias=1.5),
        node("Concat", ["x", "leaky"], ["joined"], axis=2),
        node("Sub", ["x", "hard"], ["less"]),
        node("Exp", ["x"], ["exp"]),
        node("Einsum", ["x", keep(normal(7, 6))], ["einsum"], equation="bcij,jk->bcik"),
        node("ScatterElements", ["x", keep(np.array([[[[1, 3]]]])), keep(normal(1, 1, 1, 2))], ["scattered"], axis=1),
        node("QuantizeLinear", ["x", keep(np.full(4, 0.1, np.float32)), keep(np.zeros(4, np.int8))], ["q"], axis=1),
        node("DequantizeLinear", ["q", keep(np.array([0.1, 0.2, 0.3, 0.4], np.float32)), keep(np.zeros(4, np.int8))],
             ["dq"], axis=1),
        node("OneHot", ["labels", keep(np.int64(5)), keep(np.array([0.5, 2.0], np.float32))], ["hot"], axis=1),
        node("ReverseSequence", ["rows", keep(np.array([2, 3, 1]))], ["reversed"], batch_axis=1, time_axis=0),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 7]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [3]),
        helper.make_tensor_value_info("rows", TensorProto.FLOAT, [3, 3]),
    ]
    outputs = [onnx.ValueInfoProto(name=name) for item in nodes for name in item.output if name != "q"]
    graph = helper.make_graph(nodes, "zoo", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


FEED = {"x": normal(1, 4, 6, 7), "labels": np.array([0, 4, 2]), "rows": normal(3, 3)}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return zoo()


@pytest.fixture(scope="module")
def network(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> ParsedNetwork:
    path = tmp_path_factory.mktemp("zoo") / "zoo.onnx"
    onnx.save(model, path)
    (outcome,) = run_tasks(find_flavour("tensorrt-rtx"), [Task(path, read=True)])
    assert outcome.network is not None, outcome.errors
    return outcome.network


def with_layer(network: ParsedNetwork, layer: ParsedLayer, **fields: Any) -> ParsedNetwork:
    """Return the network with a layer that differs."""
    layers = tuple(changed(other, **fields) if other is layer else other for other in network.layers)
    return changed(network, layers=layers)


def layer_of(network: ParsedNetwork, output: str) -> ParsedLayer:
    """Return what makes this tensor, or the only layer of this type."""
    return next(layer for layer in network.layers if output in (layer.type, *network.names(layer.outputs)))


def test_the_network_as_it_is_agrees(model, network):
    found = understand(network, model, [FEED])
    assert found.passed, found.parting
    assert found.reference.startswith("ONNX Runtime")
    assert found.outputs.keys() == {value.name for value in model.graph.output}


FAULTS: list[tuple[str, str, Any]] = [
    ("conv", "pre_padding", [0, 1]), ("conv", "post_padding", [2, 0]), ("conv", "dilation_nd", [2, 1]),
    ("conv", "num_groups", 1), ("conv", "padding_mode", "SAME_UPPER"), ("conv", "stride_nd", [1, 2]),
    ("deconv", "pre_padding", [0, 1]), ("deconv", "stride_nd", [3, 2]), ("deconv", "padding_mode", "SAME_UPPER"),
    ("max_pool", "pre_padding", [0, 0]), ("max_pool", "type", "AVERAGE"), ("max_pool", "window_size_nd", [2, 3]),
    ("max_pool", "padding_mode", "EXPLICIT_ROUND_UP"), ("mean_pool", "average_count_excludes_padding", True),
    ("leaky", "alpha", 0.01), ("leaky", "type", "RELU"), ("hard", "alpha", 0.2), ("hard", "beta", 0.5),
    ("turned", "first_transpose", [0, 1, 2, 3, 4, 5, 6, 7]), ("turned", "second_transpose", [1, 0, 2, 3, 4, 5, 6, 7]),
    ("sliced", "axes", [1, 2]), ("padded", "mode", "WRAP"), ("padded", "mode", "CLAMP"),
    ("gathered", "axis", 2), ("gathered", "mode", "ELEMENT"), ("elements", "axis", 3), ("elements", "mode", "DEFAULT"),
    ("summed", "op", "AVG"), ("summed", "axes", 6), ("summed", "keep_dims", False), ("SOFTMAX", "axes", 1),
    ("top", "op", "MIN"), ("top", "axes", 4), ("product", "op1", "TRANSPOSE"), ("sampled", "align_corners", True),
    ("sampled", "interpolation_mode", "NEAREST"), ("sampled", "interpolation_mode", "CUBIC"),
    ("sampled", "sample_mode", "CLAMP"), ("sampled", "sample_mode", "REFLECT"),
    ("resized", "coordinate_transformation", "ASYMMETRIC"), ("resized", "coordinate_transformation", "ALIGN_CORNERS"),
    ("resized", "resize_mode", "NEAREST"), ("nearest", "nearest_rounding", "CEIL"),
    ("nearest", "nearest_rounding", "HALF_UP"), ("cubic", "cubic_coeff", -0.75), ("cubic", "exclude_outside", True),
    ("normal", "epsilon", 1e-5), ("normal", "axes", 4), ("running", "exclusive", True), ("running", "reverse", True),
    ("local", "window_size", 5), ("local", "alpha", 0.1), ("local", "beta", 0.75), ("local", "k", 1.0),
    ("joined", "axis", 1), ("less", "op", "SUM"), ("exp", "op", "SQRT"), ("einsum", "equation", "bcij,jk->bcki"),
    ("scattered", "axis", 2), ("scattered", "mode", "ND"), ("dq", "axis", 2), ("q", "to_type", "FP8"),
    ("hot", "axis", 0), ("reversed", "batch_axis", 0), ("reversed", "sequence_axis", 1),
]  # fmt: skip


@pytest.mark.parametrize(("output", "name", "value"), FAULTS, ids=lambda value: str(value).replace(" ", ""))
def test_a_planted_fault_is_found(model, network, output, name, value):
    layer = layer_of(network, output)
    assert layer.attributes[name] != value
    wrong = with_layer(network, layer, attributes={**layer.attributes, name: value})
    if (output, name) == ("q", "to_type"):
        index = layer.outputs[0]
        tensors = tuple(changed(tensor, dtype=value) if place == index else tensor
                        for place, tensor in enumerate(network.tensors))  # fmt: skip
        wrong = changed(wrong, tensors=tensors)
    found = understand(wrong, model, [FEED])
    assert not found.passed
    assert found.parting is not None
    assert found.parting.tensor in {"SOFTMAX": ["soft"], "top": ["top", "where"], "q": ["q", "dq"]}.get(
        output, [output]
    )


def test_swapped_inputs_are_found(model, network):
    layer = layer_of(network, "less")
    found = understand(with_layer(network, layer, inputs=layer.inputs[::-1]), model, [FEED])
    assert found.parting.operator == "Sub"


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-4])
def test_one_wrong_weight_is_found(model, network, size):
    layer = layer_of(network, "conv")
    numbers = layer.weights["kernel"].data.view(np.float32).copy()
    numbers[7] += size
    wrong = changed(layer.weights["kernel"], data=numbers.view(np.uint8))
    found = understand(with_layer(network, layer, weights={**layer.weights, "kernel": wrong}), model, [FEED])
    assert found.parting.operator == "Conv"
    assert found.parting.verdict.error > found.parting.verdict.limit


def test_where_they_part_has_both_values(model, network):
    layer = layer_of(network, "leaky")
    wrong = with_layer(network, layer, attributes={**layer.attributes, "alpha": 0.01})
    parting = understand(wrong, model, [FEED]).parting
    x = FEED["x"][parting.verdict.place]
    assert x < 0
    assert (parting.operator, parting.node) == ("LeakyRelu", 4)
    assert parting.verdict.expected == pytest.approx(0.3 * x, rel=1e-5)
    assert parting.verdict.actual == pytest.approx(0.01 * x, rel=1e-5)
    assert "ACTIVATION" in parting.layer
    assert "alpha 0.01" in parting.layer


def test_the_order_of_the_layers_does_not_matter(network):
    turned = changed(network, layers=network.layers[::-1])
    for name, value in replay(network, FEED).items():
        np.testing.assert_array_equal(value, replay(turned, FEED)[name])


def test_wide_arithmetic_is_float64(network):
    narrow, wide = replay(network, FEED), replay(network, FEED, wide=True)
    assert (narrow["conv"].dtype, wide["conv"].dtype) == (np.float32, np.float64)
    assert 0 < np.abs(narrow["product"] - wide["product"]).max() < 1e-5
    assert narrow["where"].dtype == wide["where"].dtype == np.int64


def test_values_inside_are_kept_if_asked_for(network):
    assert "q" not in replay(network, FEED)
    assert replay(network, FEED, keep=["q"])["q"].dtype == np.int8


def test_a_shape_that_tensorrt_does_not_expect_is_an_error(network):
    index = layer_of(network, "summed").outputs[0]
    tensors = [changed(tensor, shape=(1, 1, 5, 1)) if place == index else tensor
               for place, tensor in enumerate(network.tensors)]  # fmt: skip
    with pytest.raises(ReplayError, match=r"gives \(1, 1, 6, 1\) when replayed, and \(1, 1, 5, 1\)"):
        replay(changed(network, tensors=tuple(tensors)), FEED)


def test_a_type_without_a_replay_is_named_and_never_passed(model, network):
    unknown = with_layer(network, layer_of(network, "exp"), type="MOE")
    assert missing_replays(network) == {}
    assert list(missing_replays(unknown)) == ["MOE"]
    with pytest.raises(NotReplayed, match="MOE"):
        replay(unknown, FEED)
    found = understand(unknown, model, [FEED])
    assert not found.passed
    assert "MOE" in found.not_replayed[0]
    assert found.outputs == {}


def test_a_plugin_is_named(network):
    plugin = with_layer(network, layer_of(network, "exp"), type="PLUGIN_V3", attributes={"plugin_name": "Unheard"})
    assert list(missing_replays(plugin)) == ["PLUGIN_V3 Unheard"]


def single(
    kind: str, inputs: list[np.ndarray], outputs: list[tuple[str, tuple[int, ...]]],
    attributes: Mapping[str, Any] | None = None, weights: Mapping[str, np.ndarray] | None = None,
) -> Callable[[], list[np.ndarray]]:  # fmt: skip
    """Return what replays a network of one layer."""
    names = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64", "int32": "INT32", "bool": "BOOL", "int8": "INT8"}
    tensors = [ParsedTensor(f"in{i}", names[value.dtype.name], value.shape) for i, value in enumerate(inputs)]
    tensors += [ParsedTensor(f"out{i}", dtype, shape) for i, (dtype, shape) in enumerate(outputs)]
    places = tuple(range(len(inputs)))
    held = {
        name: Weights("FLOAT", value.size, value.astype(np.float32).reshape(-1).view(np.uint8))
        for name, value in (weights or {}).items()
    }
    made = tuple(range(len(inputs), len(tensors)))
    layer = ParsedLayer(0, "it", kind, "", places, made, attributes or {}, held)
    network = ParsedNetwork("tensorrt-rtx", "0", places, made, tuple(tensors), (layer,))

    def run() -> list[np.ndarray]:
        values = replay(network, {f"in{i}": value for i, value in enumerate(inputs)})
        return [values[f"out{i}"] for i in range(len(outputs))]

    return run


class TestLayersThatTheParserSeldomMakes:
    """Layers of other makers of networks, against a formula written down again."""

    def test_scale_a_channel(self):
        x, scale, shift, power = normal(2, 3, 4), normal(3), normal(3), np.array([1, 2, 3], np.float32)
        attributes = {"mode": "CHANNEL", "channel_axis": 1}
        run = single("SCALE", [x], [("FLOAT", x.shape)], attributes, {"scale": scale, "shift": shift, "power": power})
        wide = (x * scale[:, None] + shift[:, None]).astype(np.float64) ** power[:, None]
        np.testing.assert_allclose(run()[0], wide, rtol=2e-5)

    def test_scale_without_shift_and_power(self):
        x, empty = normal(2, 3), np.zeros(0)
        weights = {"scale": np.array([2.0]), "shift": empty, "power": empty}
        run = single("SCALE", [x], [("FLOAT", x.shape)], {"mode": "UNIFORM", "channel_axis": 1}, weights)
        np.testing.assert_array_equal(run()[0], x * 2)

    def test_padding_and_cropping(self):
        x = normal(1, 1, 3, 4)
        run = single("PADDING", [x], [("FLOAT", (1, 1, 4, 4))], {"pre_padding_nd": [1, -1], "post_padding_nd": [0, 1]})
        expected = np.zeros((1, 1, 4, 4), np.float32)
        expected[..., 1:, :3] = x[..., 1:]
        np.testing.assert_array_equal(run()[0], expected)

    def test_blended_pooling(self):
        x = normal(1, 2, 4, 4)
        attributes = {
            "type": "MAX_AVERAGE_BLEND", "window_size_nd": [2, 2], "stride_nd": [2, 2], "blend_factor": 0.25,
            "pre_padding": [0, 0], "post_padding": [0, 0], "padding_mode": "EXPLICIT_ROUND_DOWN",
            "average_count_excludes_padding": True,
        }  # fmt: skip
        windows = x.reshape(1, 2, 2, 2, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(1, 2, 2, 2, 4)
        expected = 0.75 * windows.max(-1) + 0.25 * windows.mean(-1)
        run = single("POOLING", [x], [("FLOAT", (1, 2, 2, 2))], attributes)
        np.testing.assert_allclose(run()[0], expected, rtol=1e-6)

    def test_a_gather_beyond_the_end_is_zero(self):
        x, indices = normal(3, 2), np.array([-1, 3, -4, 0])
        attributes = {"mode": "DEFAULT", "axis": 0, "num_elementwise_dims": 0}
        run = single("GATHER", [x, indices], [("FLOAT", (4, 2))], attributes)
        np.testing.assert_array_equal(run()[0], np.stack([x[2], x[0] * 0, x[0] * 0, x[0]]))

    def test_a_gather_row_by_row(self):
        x, indices = normal(2, 3, 4), np.array([[0, 2], [1, 1]])
        attributes = {"mode": "DEFAULT", "axis": 1, "num_elementwise_dims": 1}
        run = single("GATHER", [x, indices], [("FLOAT", (2, 2, 4))], attributes)
        np.testing.assert_array_equal(run()[0], np.stack([x[0, [0, 2]], x[1, [1, 1]]]))

    def test_half_sums_are_wide_and_results_are_rounded(self):
        x = np.full((1, 4096), 1, np.float16)
        run = single("REDUCE", [x], [("HALF", (1,))], {"op": "SUM", "axes": 2, "keep_dims": False})
        assert run()[0].dtype == np.float16
        assert run()[0] == 4096  # sums of float16 would end at 2048

    def test_a_slice_out_of_bounds_is_an_error(self):
        attributes = {"start": [0], "shape": [5], "stride": [1], "axes": None, "mode": "STRICT_BOUNDS"}
        run = single("SLICE", [normal(3)], [("FLOAT", (5,))], attributes)
        with pytest.raises(ReplayError, match="beyond axis 0 of size 3"):
            run()

    def test_random_numbers_are_not_replayed(self):
        attributes = {"operation": "RANDOM_NORMAL", "shape": [3], "alpha": 0.0, "beta": 1.0, "to_type": "FLOAT"}
        with pytest.raises(NotReplayed, match="FILL RANDOM_NORMAL"):
            single("FILL", [], [("FLOAT", (3,))], attributes)()


def test_the_replay_leaves_the_generator_of_torch_alone(network):
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    replay(network, FEED)
    assert torch.rand(1) == before


def test_precision_audit(network):
    assert network.audit()["FLOAT"] > 20
    assert list(network.floating_layers()) == ["FLOAT"]
    table = network.to_json()
    assert len(table) == len(network.layers)
    row = next(row for row in table if row["outputs"] and row["outputs"][0]["name"] == "conv")
    assert row["outputs"][0]["dtype"] == "FLOAT"
    assert row["type"] == "CONVOLUTION"


def cancelling() -> onnx.ModelProto:
    """Return a sum of large numbers that nearly cancel: its rounding is far above the last place of its result."""
    signs = np.repeat(np.array([[1.0], [-1.0]], np.float32), 2048, 0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "signs"], ["y"])],
        "cancelling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4096])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(signs, "signs")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(("off", "passes"), [(4, True), (100, False)])
def test_the_rounding_that_is_measured_on_one_input_counts_for_the_next(off, passes, tmp_path, monkeypatch):
    model = cancelling()
    onnx.save(model, tmp_path / "m.onnx")
    (outcome,) = run_tasks(find_flavour("tensorrt-rtx"), [Task(tmp_path / "m.onnx", read=True)])
    assert outcome.network is not None, outcome.errors
    half = np.random.default_rng(0).standard_normal((1, 2048)).astype(np.float32) * 1000
    feeds = [{"x": np.concatenate([half, half + np.float32(shift)], 1)} for shift in (0.1, 0.2, 0.3)]
    narrow = [replay(outcome.network, feed)["y"] for feed in feeds]
    own = abs(float(narrow[0].item()) - float(replay(outcome.network, feeds[0], wide=True)["y"].item()))
    assert own > 0
    shifts = (4, 4, off)
    expected = [{"y": value + np.float32(shift * own)} for value, shift in zip(narrow, shifts, strict=True)]
    wide = []

    def counting(*arguments: Any, **options: Any) -> Any:
        wide.append(options.get("wide", False))
        return replay(*arguments, **options)

    monkeypatch.setattr("convkit.backends.tensorrt._understand.replay", counting)
    found = understand(outcome.network, model, feeds, expected=expected)
    assert found.passed is passes
    assert sum(wide) == (1 if passes else 2)
