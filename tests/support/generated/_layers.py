"""Steps that people call layers: convolutions, pools, products, normalisation, resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper
from support.generated._graph import Graph, Value, maker


def _spatial(g: Graph, x: Value, window: list[int], *, dilated: bool = True) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if dilated and g.whole(0, 2) == 0 and min(x.shape[2:]) >= 5:
        settings["dilations"] = [g.whole(1, 2) for _ in window]
    kind = g.choice("pads", "pads", "none", "SAME_UPPER", "SAME_LOWER", "VALID")
    same = kind.startswith("SAME")  # with strides beyond the window neither ONNX nor TensorRT says where windows begin
    settings["strides"] = [g.whole(1, size if same else 3) for size in window]
    if kind == "pads":
        settings["pads"] = [g.whole(0, size - 1) for size in window * 2]
    elif kind != "none":
        settings["auto_pad"] = kind
    return settings


@maker
def conv(g: Graph, x: Value) -> str | None:
    if x.rank not in (3, 4, 5):
        return None
    channels = x.shape[1]
    groups = g.choice(1, 1, channels)
    window = _window(g, x)
    kernel = g.normal(groups * g.whole(1, 3), channels // groups, *window, scale=0.5)
    inputs = [x.name, kernel]
    if g.whole(0, 1):
        inputs.append(g.normal(numpy_helper.to_array(g.constants[-1]).shape[0]))
    return g.one("Conv", *inputs, group=groups, kernel_shape=window, **_spatial(g, x, window))


@maker
def conv_transpose(g: Graph, x: Value) -> str | None:
    if x.rank not in (3, 4):
        return None
    window = [g.whole(1, 3) for _ in x.shape[2:]]
    groups = g.choice(1, 1, x.shape[1])
    kernel = g.normal(x.shape[1], g.whole(1, 3), *window, scale=0.5)
    settings = _spatial(g, x, window)
    if "auto_pad" not in settings and g.whole(0, 1):
        settings["output_padding"] = [g.whole(0, step - 1) for step in settings["strides"]]
    return g.one("ConvTranspose", x.name, kernel, group=groups, kernel_shape=window, **settings)


def _window(g: Graph, x: Value) -> list[int]:
    """Return the size of a window that fits."""
    return [g.whole(1, min(3, size)) for size in x.shape[2:]]


def _pool(g: Graph, x: Value) -> dict[str, Any]:
    window = _window(g, x)
    settings = {"kernel_shape": window, **_spatial(g, x, window, dilated=False)}
    if "auto_pad" not in settings:
        settings["ceil_mode"] = g.whole(0, 1)
    return settings


@maker
def max_pool(g: Graph, x: Value) -> str | None:
    if x.rank not in (4, 5):
        return None
    return g.one("MaxPool", x.name, **_pool(g, x))


@maker
def average_pool(g: Graph, x: Value) -> str | None:
    if x.rank not in (3, 4, 5):
        return None
    return g.one("AveragePool", x.name, count_include_pad=g.whole(0, 1), **_pool(g, x))


@maker
def global_pool(g: Graph, x: Value) -> str | None:
    return g.one(g.choice("GlobalAveragePool", "GlobalMaxPool"), x.name) if x.rank in (3, 4, 5) else None


@maker
def resize(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    mode = g.choice("nearest", "nearest", "linear", "cubic")
    settings: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": g.choice("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel",
                                                   "half_pixel_symmetric"),
    }  # fmt: skip
    if mode == "nearest":
        settings["nearest_mode"] = g.choice("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    if mode == "cubic" and g.whole(0, 1):
        settings |= {"cubic_coeff_a": g.choice(-0.5, -0.75), "exclude_outside": g.whole(0, 1)}
    if g.whole(0, 1):
        scales = [1.0, 1.0, g.choice(2.0, 0.5, 1.5, 0.7, 3.0), g.choice(2.0, 0.5, 1.5, 0.6)]
        return g.one("Resize", x.name, "", g.constant(np.array(scales, np.float32)), **settings)
    sizes = g.integers(*x.shape[:2], g.whole(1, 9), g.whole(1, 9))
    return g.one("Resize", x.name, "", "", sizes, **settings)


@maker
def upsample_axes(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    scales = g.constant(np.array([2.0, 1.5], np.float32))
    return g.one("Resize", x.name, "", scales, axes=[2, 3], mode=g.choice("nearest", "linear"))


@maker
def grid_sample(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    grid = g.constant(g.rng.uniform(-1.4, 1.4, (x.shape[0], g.whole(1, 5), g.whole(1, 5), 2)).astype(np.float32))
    return g.one("GridSample", x.name, grid, mode=g.choice("linear", "nearest", "cubic"), align_corners=g.whole(0, 1),
                 padding_mode=g.choice("zeros", "border", "reflection"))  # fmt: skip


@maker
def depth_to_space(g: Graph, x: Value) -> str | None:
    if x.rank != 4:
        return None
    if x.shape[1] % 4 == 0:
        return g.one("DepthToSpace", x.name, blocksize=2, mode=g.choice("DCR", "CRD"))
    if x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        return g.one("SpaceToDepth", x.name, blocksize=2)
    return None


@maker
def matmul(g: Graph, x: Value) -> str | None:
    if x.rank < 2:
        return None
    if g.whole(0, 3) == 0:
        return g.one("MatMul", x.name, g.normal(x.shape[-1]))
    lead = [] if g.whole(0, 1) else [size if g.whole(0, 1) else 1 for size in x.shape[:-2]]
    return g.one("MatMul", x.name, g.normal(*lead, x.shape[-1], g.whole(1, 4), scale=0.5))


@maker
def gemm(g: Graph, x: Value) -> str | None:
    if x.rank != 2:
        return None
    across, flipped = g.whole(0, 1), g.whole(0, 1)
    rows, inner = x.shape[::-1] if across else x.shape
    width = g.whole(1, 4)
    kernel = g.normal(*((width, inner) if flipped else (inner, width)), scale=0.5)
    bias = [g.normal(*g.choice((width,), (1, width), (rows, 1), (1,)))] if g.whole(0, 1) else []
    return g.one("Gemm", x.name, kernel, *bias, transA=across, transB=flipped, alpha=g.choice(1.0, 0.5),
                 beta=g.choice(1.0, 2.0))  # fmt: skip


@maker
def einsum(g: Graph, x: Value) -> str | None:
    if x.rank == 2:
        return g.one("Einsum", x.name, g.normal(x.shape[1], 3), equation=g.choice("ij,jk->ik", "ij,jk->ki", "ij,jk"))
    if x.rank == 3:
        return g.one("Einsum", x.name, g.normal(x.shape[2], 2), equation=g.choice("bij,jk->bik", "bij,jk->bk"))
    return None


@maker
def normalise(g: Graph, x: Value) -> str | None:
    if x.rank < 3:
        return None
    channels = x.shape[1]
    kind = g.choice("batch", "instance", "group", "layer", "lp", "lrn")
    if kind == "batch":
        variance = g.constant(g.rng.uniform(0.3, 2, channels).astype(np.float32))
        return g.one("BatchNormalization", x.name, g.normal(channels), g.normal(channels), g.normal(channels), variance,
                     epsilon=g.choice(1e-5, 0.1))  # fmt: skip
    if kind == "instance":
        return g.one(
            "InstanceNormalization", x.name, g.normal(channels), g.normal(channels), epsilon=g.choice(1e-5, 0.1)
        )
    if kind == "group":
        groups = g.choice(1, channels)
        return g.one("GroupNormalization", x.name, g.normal(groups), g.normal(groups), num_groups=groups)
    if kind == "layer":
        axis = g.whole(1, x.rank - 1)
        extra = [g.normal(*x.shape[axis:])] if g.whole(0, 1) else []
        return g.one("LayerNormalization", x.name, g.normal(*x.shape[axis:]), *extra, axis=axis - g.choice(0, x.rank),
                     epsilon=g.choice(1e-5, 0.1))  # fmt: skip
    if kind == "lp":
        return g.one("LpNormalization", x.name, axis=g.whole(-x.rank, x.rank - 1), p=g.whole(1, 2))
    return None if x.rank != 4 else g.one("LRN", x.name, size=g.choice(1, 3, 5), alpha=0.1, beta=0.6, bias=1.5)


@maker
def quantise(g: Graph, x: Value) -> str | None:
    scale = g.constant(np.float32(g.choice(0.05, 0.013)))
    zero = g.constant(np.int8(0))
    return g.one("DequantizeLinear", g.one("QuantizeLinear", x.name, scale, zero), scale, zero)
