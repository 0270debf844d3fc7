"""The kernels as TensorRT launches them: inputs, integers, output; one launch for each format and tactic.

Launch configurations are those of the launch in Python, traced over named sizes; so are the integers. TensorRT's
symbolic integers, or numbers, take the place of the names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from convkit.cuda import ArrayView, Kernel, LaunchConfig, Symbol, Variant
from convkit_plugins.dcnv2.cuda import (
    LAYOUT_SCALARS,
    PLAIN,
    PLAIN_SCALARS,
    TENSOR,
    layout_scalars,
    plain_scalars,
    tensor_variant,
)
from convkit_plugins.dcnv2.tensorrt._aot_settings import AotSettings, WeightOrder
from convkit_plugins.dcnv2.tensorrt._aot_tactics import COLUMNS, divisions, tiles

__all__ = ["FORMATS", "Launch", "check_sizes", "launches", "size_scalars", "views"]

FORMATS = {"float32": "HWC", "float16": "HWC8", "bfloat16": "HWC8"}
"""TensorRT's name for channels-last memory by type; that of 16 bits is dense where channels are a multiple of 8."""
SIZES = ("batch", "height", "width", "out_height", "out_width")


def _for_tensorrt(kernel: Kernel) -> Kernel:
    """Return the kernel with its output behind the integers, and weights that are packed once for all tactics."""
    behind = sorted(kernel.arguments, key=lambda argument: argument.output)
    return replace(kernel, arguments=tuple(behind), constants=(*kernel.constants, "OUTPUT_LAST", "PACKED"))


TENSOR_AOT, PLAIN_AOT = _for_tensorrt(TENSOR), _for_tensorrt(PLAIN)


@dataclass(frozen=True)
class Launch:
    """One kernel for TensorRT: what it is for, and its launch over the names of `SIZES`.

    ``x_last`` and ``out_last`` say whether input and output are channels-last.
    """

    variant: Variant
    x_last: bool
    out_last: bool
    tactic: int
    config: LaunchConfig
    scalars: tuple[Any, ...]


@lru_cache(maxsize=256)
def launches(settings: AotSettings, dtype: str) -> tuple[Launch, ...]:
    """Return all launches of a layer; tactics count from 1 for each pair of formats."""
    if settings.order == WeightOrder.PLAIN:
        return tuple(_plain_launches(settings, dtype))
    return tuple(_tensor_launches(settings, dtype))


def size_scalars(settings: AotSettings, *, x_last: bool = False, out_last: bool = False) -> tuple[Any, ...]:
    """Return the integers of a kernel as symbols over the names of `SIZES`.

    They are what `layout_scalars` and `plain_scalars` compute for dense arrays of those sizes.
    """
    layer, channels = settings.layer, settings.channels
    sizes: dict[str, Any] = {name: Symbol.size(name) for name in SIZES}
    plane, image = sizes["out_height"] * sizes["out_width"], sizes["height"] * sizes["width"]
    taps = layer.groups * layer.taps
    common = {
        **sizes,
        **_strides("offset", 2 * taps, plane),
        **_strides("mask", taps, plane),
    }
    if settings.order != WeightOrder.PLAIN:
        return tuple(common[name] for name in LAYOUT_SCALARS)
    x = (1, sizes["width"] * channels, channels) if x_last else (image, sizes["width"], 1)
    own = {
        **dict(zip(("x_image", "x_channel", "x_row", "x_pixel"), (image * channels, *x), strict=True)),
        **_strides("out", layer.filters, plane, last=out_last),
        "channels": channels,
        "filters": layer.filters,
        "groups": layer.groups,
        **_pair("kernel", layer.kernel, ("height", "width")),
        **_pair("stride", layer.stride, ("y", "x")),
        **_pair("pad", layer.padding, ("top", "left")),
        **_pair("dilation", layer.dilation, ("y", "x")),
    }
    return tuple({**common, **own}[name] for name in PLAIN_SCALARS)


def views(
    settings: AotSettings, dtype: str, sizes: Mapping[str, int], *, x_last: bool, out_last: bool
) -> tuple[ArrayView, ArrayView, ArrayView, ArrayView]:
    """Return dense arrays x, offset, mask and out of these sizes, at no address."""
    taps, plane = settings.layer.groups * settings.layer.taps, (sizes["out_height"], sizes["out_width"])
    batch = sizes["batch"]
    return (
        _view((batch, settings.channels, sizes["height"], sizes["width"]), dtype, x_last),
        _view((batch, 2 * taps, *plane), dtype, False),
        _view((batch, taps, *plane), dtype, False),
        _view((batch, settings.layer.filters, *plane), dtype, out_last),
    )


def check_sizes(settings: AotSettings, dtype: str, sizes: Mapping[str, int]) -> None:
    """Raise `KernelArgumentError` where indices of arrays of these sizes would exceed 32 bits."""
    if settings.order != WeightOrder.PLAIN:
        layout_scalars(*views(settings, dtype, sizes, x_last=True, out_last=False))
    else:
        plain_scalars(settings.layer, *views(settings, dtype, sizes, x_last=False, out_last=False))


def _tensor_launches(settings: AotSettings, dtype: str) -> list[Launch]:
    layer, channels = settings.layer, settings.channels
    found = []
    for out_last in (False, True)[: 1 + _may_be_last(dtype, layer.filters)]:
        for tactic, division in enumerate(divisions(settings), 1):
            python = tensor_variant(
                layer, dtype, channels, division, sigmoid=settings.sigmoid, relu=settings.relu, planes=not out_last
            )
            variant = TENSOR_AOT.variant(**dict(python.constants), OUTPUT_LAST=True, PACKED=COLUMNS)
            config, scalars = variant.trace(), size_scalars(settings, x_last=True, out_last=out_last)
            found.append(Launch(variant, True, out_last, tactic, config, scalars))
    return found


def _plain_launches(settings: AotSettings, dtype: str) -> list[Launch]:
    layer, found = settings.layer, []
    pairs = [(False, False)]
    if _may_be_last(dtype, settings.channels) and settings.channels // layer.groups % 4 == 0:
        pairs += [(True, False), (True, True)][: 1 + _may_be_last(dtype, layer.filters)]
    for x_last, out_last in pairs:
        for tactic, tile in enumerate(tiles(settings), 1):
            fields = {name.upper(): value for name, value in tile._asdict().items()}
            variant = PLAIN_AOT.variant(
                T=dtype, SIGMOID=settings.sigmoid, RELU=settings.relu, VECTOR=x_last, **fields,
                OUTPUT_LAST=True, PACKED=COLUMNS,
            )  # fmt: skip
            sizes = {name: layer.filters if name == "filters" else Symbol.size(name) for name in PLAIN.sizes}
            config = variant.launch_config(**sizes)
            scalars = size_scalars(settings, x_last=x_last, out_last=out_last)
            found.append(Launch(variant, x_last, out_last, tactic, config, scalars))
    return found


def _may_be_last(dtype: str, channels: int) -> bool:
    """Return whether TensorRT's channels-last memory has no gaps between pixels."""
    return dtype == "float32" or channels % 8 == 0


def _strides(name: str, channels: int, plane: Any, *, last: bool = False) -> dict[str, Any]:
    values = (plane * channels, 1, channels) if last else (plane * channels, plane, 1)
    return dict(zip((f"{name}_image", f"{name}_channel", f"{name}_pixel"), values, strict=True))


def _pair(name: str, values: Sequence[int], axes: tuple[str, str]) -> dict[str, int]:
    return {f"{name}_{axis}": value for axis, value in zip(axes, values, strict=True)}


def _view(shape: tuple[int, int, int, int], dtype: str, last: bool) -> ArrayView:
    _, channels, height, width = shape
    inner = (1, width * channels, channels) if last else (height * width, width, 1)
    return ArrayView(shape, (channels * height * width, *inner), dtype, 0, 0)
