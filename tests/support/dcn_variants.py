"""Variants of the kernels of the deformable convolution that cover every constant."""

from __future__ import annotations

from support.aot_layers import LAYERS

from convkit.cuda import Variant
from convkit_plugins.dcnv2.cuda import (
    PLAIN,
    TILES,
    Division,
    Layer,
    Packing,
    Tactic,
    candidates,
    division_for,
    hopper_variant,
    problem_of,
    tensor_variant,
)
from convkit_plugins.dcnv2.tensorrt import launches

SQUARE = Layer(64, (3, 3), (1, 1), (1, 1))
ODD = Layer(40, (5, 2), (2, 1), (1, 0), (1, 3), 2)


def hopper_variants() -> list[Variant]:
    """The best tactics for each kind of layer, and two that no measured layer has."""
    variants = []
    for channels, filters, pixels in ((512, 256, 256), (64, 64, 2**17), (256, 128, 2**13), (256, 256, 2**15)):
        layer = Layer(filters, (3, 3), (1, 1), (1, 1))
        for blend_fp32 in (False, True):
            tactic = candidates(problem_of(layer, channels, pixels, blend_fp32=blend_fp32), 1)[0]
            variants.append(hopper_variant(layer, "float16", channels, tactic, sigmoid=True, blend_fp32=blend_fp32))
    one = Tactic(64, 2, 2, 1, 1, 4, 2, 1, 1)
    variants.append(hopper_variant(SQUARE, "bfloat16", 128, one, sigmoid=False, relu=True, planes=True))
    shared = Tactic(32, 1, 1, 2, 1, 3, 2, 4, 1)
    variants.append(hopper_variant(ODD, "float16", 48, shared, sigmoid=True, blend_fp32=False))
    return variants


def tensor_variants() -> list[Variant]:
    """Each type, few and many pixels, and a division that none of these has."""
    variants = []
    for dtype, channels, filters, pixels in (
        ("float16", 512, 256, 256),
        ("float16", 64, 64, 2**17),
        ("bfloat16", 128, 128, 2**12),
        ("float32", 64, 64, 2**14),
    ):
        layer = Layer(filters, (3, 3), (1, 1), (1, 1))
        division = division_for(layer, pixels)
        assert division is not None
        variants.append(tensor_variant(layer, dtype, channels, division, sigmoid=True))
    small = Division(32, 1, 2, 2)
    variants.append(tensor_variant(ODD, "float16", 48, small, sigmoid=False, relu=True, planes=True, blend_fp32=False))
    return variants


def plain_variants() -> list[Variant]:
    """Each type with and without loads of four channels, and each tile."""
    common = {"SIGMOID": True, "RELU": False}
    tiles = [{key.upper(): value for key, value in tile._asdict().items()} for tile in TILES]
    variants = [
        PLAIN.variant(T=dtype, VECTOR=vector, **common, **tiles[0])
        for dtype in ("float32", "float16", "bfloat16")
        for vector in (False, True)
    ]
    variants += [PLAIN.variant(T="float32", VECTOR=True, **common, **tile) for tile in tiles[1:]]
    return [*variants, PLAIN.variant(T="float16", VECTOR=True, SIGMOID=False, RELU=True, **tiles[1])]


def pack_variants() -> list[Variant]:
    """Each type in both orders, and tiles of each width."""
    orders = (Packing(mma=False, columns=64), Packing(mma=True, columns=32), Packing(mma=True, columns=128))
    return [order.variant(dtype) for order in orders for dtype in ("float32", "float16", "bfloat16")]


def aot_variants() -> list[Variant]:
    """The kernels in TensorRT's order of arguments: one of each type, with tiles of one and of several packed ones."""
    found = {}
    for name in ("all filters of a large layer", "bfloat16", "TF32", "float32", "float16, odd"):
        layer = LAYERS[name]
        some = launches(layer.settings, layer.dtype)
        found |= dict.fromkeys(each.variant for each in (some[0], some[-1]))
    return list(found)
