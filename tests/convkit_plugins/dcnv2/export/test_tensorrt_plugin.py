"""DeformConv as the node of the TensorRT plugin: run by the torch backend, it equals ONNX Runtime's DeformConv."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support.deform_layers import DeformLayer
from support.graphs import op_types, run_model

from convkit.backends import open_session, proving_backend
from convkit.conversion import check_graph
from convkit.errors import RewriteError
from convkit.graph import apply_rewrite
from convkit.graph.precision import To16Bit
from convkit_plugins.dcnv2.export import TensorRTPluginNode
from convkit_plugins.dcnv2.tensorrt import AotSettings, WeightOrder

LAYERS = {
    "plain": DeformLayer(),
    "no mask": DeformLayer(mask=False),
    "no bias": DeformLayer(bias=False),
    "neither": DeformLayer(mask=False, bias=False),
    "one by one": DeformLayer(kernel=(1, 1), pads=(0, 0, 0, 0)),
    "two by three": DeformLayer(kernel=(2, 3)),
    "stride": DeformLayer(stride=(2, 3), size=(9, 11)),
    "dilation": DeformLayer(dilation=(2, 1), pads=(2, 1, 2, 1)),
    "padding": DeformLayer(pads=(0, 1, 2, 3)),
    "offset groups": DeformLayer(channels=12, offset_group=3),
    "single pixel": DeformLayer(size=(1, 1)),
    "everything": DeformLayer(
        channels=8, kernel=(3, 2), stride=(2, 1), pads=(0, 1, 2, 3), dilation=(1, 2), offset_group=4, size=(8, 10)
    ),
    "many filters": DeformLayer(channels=18, filters=70),
    "opset 19": DeformLayer(opset=19),
    "opset 22": DeformLayer(opset=22),
}


def rewritten(model: onnx.ModelProto, rewrite: TensorRTPluginNode | None = None) -> onnx.ModelProto:
    result, record = apply_rewrite(model, rewrite or TensorRTPluginNode())
    assert record.fired == 1
    assert "DeformConv" not in op_types(result)
    check_graph(result)
    return result


def run_by_torch(model: onnx.ModelProto, folder: Path, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    assert proving_backend(model) == "torch"
    file = folder / "model.onnx"
    onnx.save(model, str(file))
    session = open_session("torch", file)
    try:
        return session.run(feeds)["y"]
    finally:
        session.close()


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest value; infinite where a result is not finite."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    difference = np.abs(actual.astype(np.float64) - expected).max()
    return float(difference / np.abs(expected).max()) if np.isfinite(difference) else float("inf")


@pytest.mark.parametrize("dynamic", ["", "n", "nhw"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_equals_the_kernel_of_onnx_runtime(layer: DeformLayer, dynamic: str, tmp_path: Path) -> None:
    """With offsets on borders, far outside and infinite."""
    model, feeds = replace(layer, dynamic=dynamic).model(), layer.feeds()
    result = run_by_torch(rewritten(model), tmp_path, feeds)
    assert relative_error(result, run_model(model, **feeds)["y"]) <= 1e-5


@pytest.mark.parametrize(
    ("rewrite", "dtype", "bound"),
    [(TensorRTPluginNode(tf32=True), np.float32, 2e-3), (TensorRTPluginNode(), np.float16, 2e-3)],
    ids=["TF32", "float16"],
)
@pytest.mark.parametrize("channels", [16, 80, 144])
def test_weights_for_the_tensor_cores(
    rewrite: TensorRTPluginNode, dtype: type[np.floating], bound: float, channels: int, tmp_path: Path
) -> None:
    layer = DeformLayer(channels=channels, filters=40, dtype=dtype, offset_group=2)
    model, feeds = layer.model(), layer.feeds()
    result = rewritten(model, rewrite)
    order = WeightOrder.TENSOR_TF32 if dtype == np.float32 else WeightOrder.TENSOR_16
    assert settings_of(result).order == order
    expected = layer.by_definition(feeds).astype(dtype)
    assert relative_error(run_by_torch(result, tmp_path, feeds), expected) <= bound


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def layers(draw: Callable[..., object]) -> DeformLayer:
    groups = draw(st.sampled_from([1, 2, 3]))
    return DeformLayer(
        batch=draw(st.integers(1, 3)),
        channels=groups * draw(st.integers(1, 9)),
        filters=draw(st.integers(1, 70)),
        size=draw(st.tuples(st.integers(6, 12), st.integers(6, 12))),
        kernel=draw(pairs),
        stride=draw(pairs),
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=draw(pairs),
        offset_group=groups,
        mask=draw(st.booleans()),
        bias=draw(st.booleans()),
        dynamic=draw(st.sampled_from(["", "n", "hw", "nhw"])),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layer=layers().filter(lambda layer: min(layer.output_size) > 0))
def test_equals_the_kernel_for_any_parameters(tmp_path_factory: pytest.TempPathFactory, layer: DeformLayer) -> None:
    model, feeds = layer.model(), layer.feeds()
    result = run_by_torch(rewritten(model), tmp_path_factory.mktemp("any"), feeds)
    assert relative_error(result, run_model(model, **feeds)["y"]) <= 1e-5


@pytest.mark.parametrize(("precision", "limit"), [("fp16", 2e-3), ("bf16", 1.5e-2)])
@pytest.mark.parametrize("channels", [6, 16])
def test_a_typed_layer(channels: int, precision: str, limit: float, tmp_path: Path) -> None:
    """The layer as an engine gets it in 16 bits; weights for either kernel."""
    layer = DeformLayer(channels=channels, filters=40, dynamic="nhw", bias=False)
    kind = np.dtype(np.float16 if precision == "fp16" else ml_dtypes.bfloat16)
    feeds = {name: value.astype(kind).astype(np.float32) for name, value in layer.feeds().items()}
    typed, _ = apply_rewrite(layer.model(), To16Bit(precision))
    result = rewritten(typed)
    narrow = helper.np_dtype_to_tensor_dtype(kind)
    assert settings_of(result).order == (WeightOrder.PLAIN if channels == 6 else WeightOrder.TENSOR_16)
    (node,) = (node for node in result.graph.node if node.op_type == "DCNv2")
    kinds = {tensor.name: tensor.data_type for tensor in result.graph.initializer}
    assert kinds[node.input[3]] == kinds[node.input[4]] == narrow
    found = run_by_torch(result, tmp_path, feeds)
    expected = layer.by_definition(feeds).astype(np.float32)
    assert 0 < relative_error(found.astype(np.float32), expected) <= limit


def settings_of(model: onnx.ModelProto) -> AotSettings:
    (node,) = (node for node in model.graph.node if node.op_type == "DCNv2")
    return AotSettings.from_fields(
        {each.name: helper.get_attribute_value(each) for each in node.attribute if each.ints}
    )


def test_the_node_is_what_the_parser_wants() -> None:
    model = rewritten(DeformLayer(channels=8).model("layer/dcn"))
    (node,) = model.graph.node
    values = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    assert (node.domain, node.op_type, node.name) == ("convkit", "DCNv2", "layer/dcn")
    assert (values["plugin_namespace"], values["plugin_version"], values["aot"]) == (b"convkit", b"1", 1)
    assert ("convkit", 1) in [(item.domain, item.version) for item in model.opset_import]
    assert all(
        len(value) == 1 for name, value in values.items() if name not in ("plugin_namespace", "plugin_version", "aot")
    )
    x, offset, mask, weight, bias = node.input
    assert (x, offset, mask, bias) == ("x", "offset", "mask", "bias")
    (packed,) = (tensor for tensor in model.graph.initializer if tensor.name == weight)
    assert len(packed.dims) == 1
    assert "weight" not in {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    ("layer", "capability", "expected"),
    [
        (DeformLayer(channels=16, dtype=np.float16), None, WeightOrder.TENSOR_16),
        (DeformLayer(channels=16, dtype=np.float16), 90, WeightOrder.TENSOR_16),
        (DeformLayer(channels=16, dtype=np.float16), 75, WeightOrder.PLAIN),
        (DeformLayer(channels=12, dtype=np.float16), None, WeightOrder.PLAIN),
        (DeformLayer(channels=24, dtype=np.float16, offset_group=2), None, WeightOrder.PLAIN),
        (DeformLayer(channels=16, dtype=np.float16, size=(1, 9)), None, WeightOrder.PLAIN),
        (DeformLayer(channels=16, dtype=np.float16, size=(1, 9), dynamic="hw"), None, WeightOrder.TENSOR_16),
        (DeformLayer(channels=16), None, WeightOrder.PLAIN),
    ],
)
def test_the_kernel_that_is_chosen(layer: DeformLayer, capability: int | None, expected: WeightOrder) -> None:
    assert settings_of(rewritten(layer.model(), TensorRTPluginNode(capability))).order == expected


def surrounded(layer: DeformLayer, *, sigmoid: bool = True, relu: bool = True, twice: bool = False) -> onnx.ModelProto:
    """The layer behind a Sigmoid and before a Relu; with ``twice`` its result is an output as well."""
    model = layer.model()
    (node,) = model.graph.node
    nodes = [node]
    if sigmoid:
        node.input[4] = "factors"
        nodes.insert(0, helper.make_node("Sigmoid", ["mask"], ["factors"], name="sigmoid"))
    if relu:
        node.output[0] = "sums"
        nodes.append(helper.make_node("Relu", ["sums"], ["y"], name="relu"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    if twice:
        shape = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
        model.graph.output.append(helper.make_tensor_value_info("sums", TensorProto.FLOAT, shape))
    return model


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_sigmoid_and_relu_become_part_of_it(sigmoid: bool, relu: bool, tmp_path: Path) -> None:
    layer = DeformLayer()
    model, feeds = surrounded(layer, sigmoid=sigmoid, relu=relu), layer.feeds()
    result = rewritten(model)
    assert op_types(result) == ["DCNv2"]
    assert (settings_of(result).sigmoid, settings_of(result).relu) == (sigmoid, relu)
    assert relative_error(run_by_torch(result, tmp_path, feeds), run_model(model, **feeds)["y"]) <= 1e-5


def test_a_result_that_others_read_keeps_its_relu(tmp_path: Path) -> None:
    layer = DeformLayer()
    model, feeds = surrounded(layer, twice=True), layer.feeds()
    result = rewritten(model)
    assert op_types(result) == ["DCNv2", "Relu"]
    assert not settings_of(result).relu
    assert relative_error(run_by_torch(result, tmp_path, feeds), run_model(model, **feeds)["y"]) <= 1e-5


def computed_weight() -> onnx.ModelProto:
    model = DeformLayer().model()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "weight")
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, weight.dims))
    model.graph.initializer.remove(weight)
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [(DeformLayer(group=2).model(), "grouped convolution"), (computed_weight(), "its weight weight is computed")],
)
def test_what_it_cannot_serve_is_an_error(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(RewriteError, match=f"dcn=plugin does not serve the DeformConv dcn: .*{reason}") as caught:
        apply_rewrite(model, TensorRTPluginNode())
    assert "--set dcn=gather" in caught.value.hint


def test_it_changes_nothing_twice() -> None:
    once = rewritten(DeformLayer().model())
    again, record = apply_rewrite(once, TensorRTPluginNode())
    assert record.fired == 0
    assert again is once


def test_a_fault_of_the_packing_is_noticed(tmp_path: Path) -> None:
    """The unpacking is by definition: two weights that are exchanged give another result."""
    layer = DeformLayer(channels=16, filters=40)
    model, feeds = layer.model(), layer.feeds()
    result = rewritten(model)
    (packed,) = (tensor for tensor in result.graph.initializer if len(tensor.dims) == 1 and tensor.dims[0] > 1000)
    values = numpy_helper.to_array(packed).copy()
    values[[0, 1]] = values[[1, 0]]
    packed.CopyFrom(numpy_helper.from_array(values, packed.name))
    assert relative_error(run_by_torch(result, tmp_path, feeds), run_model(model, **feeds)["y"]) > 1e-4
