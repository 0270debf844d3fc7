"""Attributes of the plugin and the order of its weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.aot_layers import LAYERS, AotLayer

from convkit.errors import PluginError
from convkit_plugins.dcnv2.cuda import Layer, pack_for_mma, pack_for_plain
from convkit_plugins.dcnv2.tensorrt import AotSettings, WeightOrder, pack, packed_size, unpack

layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())


def numbered(layer: AotLayer) -> np.ndarray:
    """Weights that all differ, as float32 or as 16 bits that are no number on purpose."""
    settings = layer.layer
    shape = (settings.filters, layer.channels, *settings.kernel)
    values = np.arange(1, np.prod(shape) + 1).reshape(shape)
    return values.astype(np.float32) if layer.dtype == "float32" else (values % 65521).astype(np.uint16)


@layers
def test_attributes_are_read_as_they_were_written(layer: AotLayer) -> None:
    fields = layer.settings.to_fields()
    assert all(type(value) is int for (value,) in fields.values())
    assert AotSettings.from_fields(fields) == layer.settings
    arrays = {name: np.array(value, np.int32) for name, value in fields.items()}
    assert AotSettings.from_fields({**arrays, "plugin_version": "1"}) == layer.settings


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("filters", [0], "filters is"),
        ("pad_top", [-1], "pad_top is"),
        ("sigmoid", [2], "sigmoid is"),
        ("weight_order", [1], "weight_order is 1"),
        ("groups", [3], "64 channels cannot be divided into 3"),
        ("stride_x", [1, 1], "stride_x is"),
        ("stride_x", [], "stride_x is"),
    ],
)
def test_attributes_that_nobody_wrote_are_refused(name: str, value: list[int], reason: str) -> None:
    fields = LAYERS["float16"].settings.to_fields()
    with pytest.raises(PluginError, match=reason) as caught:
        AotSettings.from_fields({**fields, name: value})
    assert "build again" in caught.value.hint
    del fields[name]
    with pytest.raises(PluginError, match=f"{name} is missing"):
        AotSettings.from_fields(fields)


@layers
def test_unpacking_finds_every_weight(layer: AotLayer) -> None:
    weight = numbered(layer)
    if layer.order == WeightOrder.TENSOR_TF32:
        weight = np.ldexp(weight % 1024 + 1024, weight.astype(np.int64) // 1024 - 20).astype(np.float32)  # exact there
    packed = pack(weight, layer.settings)
    assert packed.shape == (packed_size(layer.settings),)
    assert packed.dtype == weight.dtype
    found = unpack(torch.from_numpy(packed.astype(np.float64)), layer.settings)
    np.testing.assert_array_equal(found.numpy(), weight.astype(np.float64))
    assert np.count_nonzero(packed) == np.count_nonzero(weight)  # the rest is padding


def test_tf32_is_rounded_and_nothing_else_is() -> None:
    layer = LAYERS["TF32"]
    weight = layer.tensors((1, 4, 4))["weight"]
    (error,) = {float((unpack(layer.packed(weight), layer.settings) - weight).abs().div(weight.abs()).max())}
    assert 2**-13 < error <= 2**-11


@pytest.mark.parametrize("columns", [64, 128])
def test_tiles_of_more_columns_are_several_of_32(columns: int) -> None:
    """What lets one tensor serve every tactic: the kernels' own tiles consist of whole ones of 32 columns."""
    weight = torch.arange(256 * 72 * 4, dtype=torch.int32).view(256, 72, 2, 2)
    half = (weight % 32749).to(torch.int16)
    narrow, wide = pack_for_mma(half, 32), pack_for_mma(half, columns)
    steps = 2 * 4  # of 64 channels, and taps
    tiles = narrow.view(256 // columns, columns // 32, steps, -1)
    assert torch.equal(tiles.transpose(1, 2).flatten(), wide)
    plain, broad = pack_for_plain(weight, 2, 32), pack_for_plain(weight, 2, 64)
    rows = plain.view(4, 2, -1, 32)
    assert torch.equal(rows.transpose(1, 2).flatten(), broad)


def test_another_number_of_weights_is_refused() -> None:
    layer = LAYERS["float32"]
    with pytest.raises(PluginError, match="packed weights"):
        unpack(torch.zeros(packed_size(layer.settings) - 1), layer.settings)


def test_weights_depend_on_nothing_that_a_tactic_changes() -> None:
    settings = AotSettings(Layer(96, (3, 3)), 64, WeightOrder.TENSOR_16)
    assert packed_size(settings) == 128 * 64 * 9  # the widest tile has 128 output channels
    assert packed_size(replace(settings, sigmoid=True, relu=True)) == packed_size(settings)
