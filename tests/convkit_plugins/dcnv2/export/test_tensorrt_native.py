"""DeformConv for TensorRT's own plugin: only where that is right, in float32, with all inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from support.deform_layers import DeformLayer
from support.graphs import op_types, run_model

from convkit.errors import RewriteError
from convkit.graph import apply_rewrite
from convkit_plugins.dcnv2.export import TensorRTNative

LAYERS = {
    "plain": DeformLayer(),
    "no mask": DeformLayer(mask=False),
    "no bias": DeformLayer(bias=False),
    "neither": DeformLayer(mask=False, bias=False),
    "dynamic batch": DeformLayer(mask=False, dynamic="n"),
    "all settings": DeformLayer(
        channels=8,
        kernel=(3, 2),
        stride=(2, 2),
        pads=(1, 1, 1, 1),
        dilation=(2, 2),
        group=2,
        offset_group=2,
        size=(9, 10),
    ),
}


def type_of(model: onnx.ModelProto, name: str) -> int:
    """Return the element type of a tensor."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}
    return {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}[name]


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["fp32", "fp16"])
def test_all_inputs_are_there_and_float32(layer: DeformLayer, dtype: type[np.floating]) -> None:
    layer = replace(layer, dtype=dtype)
    model, feeds = layer.model(), layer.feeds()
    result, record = apply_rewrite(model, TensorRTNative())
    assert record.fired == int(dtype != np.float32 or not (layer.mask and layer.bias))
    onnx.checker.check_model(result, full_check=True)
    (node,) = (node for node in result.graph.node if node.op_type == "DeformConv")
    assert len(node.input) == 5
    assert all(node.input)
    assert {type_of(result, name) for name in (*node.input, *node.output)} == {onnx.TensorProto.FLOAT}
    computed = run_model(result, **feeds)["y"]
    assert computed.dtype == dtype
    np.testing.assert_allclose(computed, layer.by_definition(feeds), rtol=0, atol=1e-5 if dtype == np.float32 else 5e-3)
    again, record = apply_rewrite(result, TensorRTNative())
    assert record.fired == 0
    assert again is result


def test_weights_are_widened_in_the_file() -> None:
    result, _ = apply_rewrite(DeformLayer(dtype=np.float16).model(), TensorRTNative())
    assert sorted(op_types(result)) == ["Cast"] * 4 + ["DeformConv"]  # x, offset, mask, and the result


def test_the_mask_that_is_added_has_its_own_shape() -> None:
    """TensorRT's parser makes one in the shape of the offsets, which is twice as large."""
    result, _ = apply_rewrite(DeformLayer(mask=False).model(), TensorRTNative())
    (node,) = result.graph.node
    (mask,) = (tensor for tensor in result.graph.initializer if tensor.name == node.input[4])
    assert list(mask.dims) == [2, 9, 7, 9]


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (DeformLayer(pads=(1, 1, 2, 1)), r"pads \(1, 1\) pixels before and \(2, 1\) after"),
        (DeformLayer(pads=(1, 0, 1, 0)), "padding is 1 vertically and 0 horizontally"),
        (DeformLayer(stride=(1, 2)), "stride is 1 vertically and 2 horizontally"),
        (DeformLayer(dilation=(2, 1)), "dilation is 2 vertically and 1 horizontally"),
        (DeformLayer(dynamic="h"), "height or width is dynamic"),
        (DeformLayer(dynamic="nw"), "height or width is dynamic"),
    ],
)
def test_what_tensorrt_gets_wrong_is_refused(layer: DeformLayer, reason: str) -> None:
    with pytest.raises(RewriteError, match=f"dcn=native does not serve the DeformConv dcn: .*{reason}") as caught:
        apply_rewrite(layer.model(), TensorRTNative())
    assert "--set dcn=plugin or --set dcn=gather" in caught.value.hint
