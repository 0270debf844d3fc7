"""Operators of networks: convolution, pooling, normalisation, resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator, refuse

__all__ = ["NETWORK", "symmetric"]

NETWORK: dict[Key, Builder] = {}

_CONV: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Any]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class _Window:
    """Kernel, strides, dilations and padding of a node; the padding may depend on the input's size."""

    def __init__(self, node: TorchNode, kernel: Sequence[int]) -> None:
        get, axes = node.attributes.get, len(kernel)
        self.kernel = [int(size) for size in kernel]
        self.strides = list(get("strides") or [1] * axes)
        self.dilations = list(get("dilations") or [1] * axes)
        self.auto = get("auto_pad", "NOTSET") or "NOTSET"
        self.pads = list(get("pads") or [0] * (2 * axes)) if self.auto == "NOTSET" else [0] * (2 * axes)

    def padding(self, sizes: Sequence[int]) -> list[int]:
        """Return the padding of an input of these sizes, all begins first, as ONNX does."""
        if not self.auto.startswith("SAME"):
            return self.pads
        begins, ends = [], []
        for size, kernel, stride, dilation in zip(sizes, self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
            small, large = total // 2, total - total // 2
            begins.append(large if self.auto == "SAME_LOWER" else small)
            ends.append(small if self.auto == "SAME_LOWER" else large)
        return begins + ends


def symmetric(pads: Sequence[int]) -> list[int] | None:
    """Return one padding an axis, or None where the two ends of an axis differ."""
    half = len(pads) // 2
    return list(pads[:half]) if list(pads[:half]) == list(pads[half:]) else None


def _apply_padding(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    half = len(pads) // 2
    flat = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
    return F.pad(x, flat, value=value)


def _kernel(node: TorchNode) -> list[int]:
    found = list(node.attributes.get("kernel_shape") or ())
    if not 1 <= len(found) <= 3:
        raise refuse(node, f"its kernel has {len(found)} axes")
    return found


@operator(NETWORK, "Conv")
def _conv(node: TorchNode) -> Function:
    groups = node.attributes.get("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = _Window(node, weight.shape[2:])
        pads = window.padding(x.shape[2:])
        even = symmetric(pads)
        if even is None:
            x, even = _apply_padding(x, pads), [0] * len(window.kernel)
        function = _CONV[len(window.kernel)]
        return function(x, weight, bias, window.strides, even, window.dilations, groups)  # type: ignore[no-any-return]

    return run


@operator(NETWORK, "ConvTranspose")
def _conv_transpose(node: TorchNode) -> Function:
    groups, extra = node.attributes.get("group", 1), node.attributes.get("output_padding")
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise refuse(node, "its padding is not given as numbers")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = _Window(node, weight.shape[2:])
        even = symmetric(window.pads)
        padding, added = even or [0] * len(window.kernel), extra or [0] * len(window.kernel)
        function = _TRANSPOSED[len(window.kernel)]
        result = function(x, weight, bias, window.strides, padding, added, groups, window.dilations)
        return result if even is not None else _apply_padding(result, [-amount for amount in window.pads])

    return run


@operator(NETWORK, "MaxPool")
def _max_pool(node: TorchNode) -> Function:
    window, ceil = _Window(node, _kernel(node)), bool(node.attributes.get("ceil_mode", 0))
    if len(node.outputs) > 1:
        raise refuse(node, "its indices are used")
    function = _MAX_POOL[len(window.kernel)]

    def run(x: Tensor) -> Tensor:
        pads = window.padding(x.shape[2:])
        even = symmetric(pads)
        if even is None or any(2 * amount > size for amount, size in zip(even, window.kernel, strict=True)):
            x, even = _apply_padding(x, pads, -math.inf), [0] * len(window.kernel)
        return function(  # type: ignore[no-any-return]
            x, window.kernel, window.strides, even, window.dilations, ceil_mode=ceil
        )

    return run


@operator(NETWORK, "AveragePool")
def _average_pool(node: TorchNode) -> Function:
    window, ceil = _Window(node, _kernel(node)), bool(node.attributes.get("ceil_mode", 0))
    include = bool(node.attributes.get("count_include_pad", 0))
    if any(dilation != 1 for dilation in window.dilations):
        raise refuse(node, "it is dilated")
    function = _AVERAGE_POOL[len(window.kernel)]

    def run(x: Tensor) -> Tensor:
        pads = window.padding(x.shape[2:])
        even = symmetric(pads)
        if even is not None:
            return function(  # type: ignore[no-any-return]
                x, window.kernel, window.strides, even, ceil_mode=ceil, count_include_pad=include
            )
        pooled = function(_apply_padding(x, pads), window.kernel, window.strides, ceil_mode=ceil)
        if not include:
            inside = _apply_padding(torch.ones_like(x[:1, :1]), pads)
            pooled = pooled / function(inside, window.kernel, window.strides, ceil_mode=ceil)
        return pooled  # type: ignore[no-any-return]

    return run


@operator(NETWORK, "GlobalAveragePool", "GlobalMaxPool")
def _global_pool(node: TorchNode) -> Function:
    if node.op_type == "GlobalMaxPool":
        return lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)
    return lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator(NETWORK, "BatchNormalization")
def _batch_norm(node: TorchNode) -> Function:
    if node.attributes.get("training_mode", 0):
        raise refuse(node, "it is in training mode")
    epsilon = float(node.attributes.get("epsilon", 1e-5))

    def run(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        factor = scale.float() * torch.rsqrt(variance.float() + epsilon)
        rest = shift.float() - mean.float() * factor
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(rest.to(x.dtype).view(shape), x, factor.to(x.dtype).view(shape))

    return run


@operator(NETWORK, "InstanceNormalization")
def _instance_norm(node: TorchNode) -> Function:
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    return lambda x, scale, shift: F.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


@operator(NETWORK, "LayerNormalization")
def _layer_norm(node: TorchNode) -> Function:
    axis, epsilon = node.attributes.get("axis", -1), float(node.attributes.get("epsilon", 1e-5))
    if sum(1 for name in node.outputs if name) > 1:
        raise refuse(node, "its mean or deviation is used")

    def run(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        return F.layer_norm(x, shape, scale.expand(shape), None if shift is None else shift.expand(shape), epsilon)

    return run


@operator(NETWORK, "Resize", "Upsample", host=(1, 2, 3))
def _resize(node: TorchNode) -> Function:
    get = node.attributes.get
    mode, rule = get("mode", "nearest"), get("coordinate_transformation_mode", "half_pixel")
    if node.op_type == "Upsample" or node.opset < 11:
        rule = "asymmetric"
    nearest = get("nearest_mode", "round_prefer_floor" if node.opset >= 11 and node.op_type == "Resize" else "floor")
    if get("antialias", 0) or get("keep_aspect_ratio_policy", "stretch") != "stretch" or rule == "tf_crop_and_resize":
        raise refuse(node, "antialias, aspect policies and cropping are not there")
    if mode != "nearest" and (rule not in ("half_pixel", "pytorch_half_pixel", "align_corners")):
        raise refuse(node, f"mode {mode!r} with the rule {rule!r} is not there")
    first = 1 if node.opset < 11 or node.op_type == "Upsample" else 2
    chosen = get("axes")
    places: dict[Any, Tensor] = {}

    def run(x: Tensor, *settings: Tensor | None) -> Tensor:
        given = dict(enumerate(settings, 1))
        scales, sizes = given.get(first), given.get(3)
        listed = list(chosen) if chosen is not None else list(range(x.dim()))
        factors = [1.0] * x.dim()
        target = list(x.shape)
        if sizes is not None and sizes.numel():
            for axis, size in zip(listed, sizes.tolist(), strict=True):
                target[axis], factors[axis] = size, size / x.shape[axis]
        else:
            assert scales is not None
            for axis, factor in zip(listed, scales.tolist(), strict=True):
                target[axis], factors[axis] = math.floor(x.shape[axis] * factor), factor
        if mode == "nearest":
            return _nearest(x, target, factors, rule, nearest, places)
        return _smooth(node, x, target, factors, mode, rule)

    return run


def _nearest(
    x: Tensor, target: Sequence[int], factors: Sequence[float], rule: str, rounding: str, places: dict[Any, Tensor]
) -> Tensor:
    for axis, (size, factor) in enumerate(zip(target, factors, strict=True)):
        have = x.shape[axis]
        if size == have and factor == 1.0:
            continue
        key = (axis, have, size, factor)
        if key not in places:
            chosen = _nearest_places(have, size, factor, rule, rounding)
            places[key] = torch.from_numpy(chosen).to(x.device)
        x = x.index_select(axis, places[key])
    return x


def _nearest_places(have: int, size: int, factor: float, rule: str, rounding: str) -> np.ndarray:
    """Return which input value each output value takes, by ONNX's definition of the coordinates."""
    at = np.arange(size, dtype=np.float64)
    if rule == "align_corners":
        at = at * (have - 1) / (size - 1) if size > 1 else at * 0
    elif rule == "asymmetric":
        at = at / factor
    elif rule == "pytorch_half_pixel" and size == 1:
        at = at * 0
    else:
        at = (at + 0.5) / factor - 0.5
    rounded = {
        "round_prefer_floor": lambda: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda: np.floor(at + 0.5),
        "floor": lambda: np.floor(at),
        "ceil": lambda: np.ceil(at),
    }[rounding]()
    return np.clip(rounded, 0, have - 1).astype(np.int64)


def _smooth(
    node: TorchNode, x: Tensor, target: Sequence[int], factors: Sequence[float], mode: str, rule: str
) -> Tensor:
    spatial = x.dim() - 2
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    if list(target[:2]) != list(x.shape[:2]) or (mode, spatial) not in names:
        raise refuse(node, f"mode {mode!r} resizes batch or channels, or too many axes")
    if mode == "cubic" and (
        node.attributes.get("cubic_coeff_a", -0.75) != -0.75 or node.attributes.get("exclude_outside")
    ):
        raise refuse(node, "its cubic has other coefficients")
    name, align = names[mode, spatial], rule == "align_corners"
    exact = all(size == have * factor for size, have, factor in zip(target, x.shape, factors, strict=True))
    if align or exact:
        return F.interpolate(x, list(target[2:]), mode=name, align_corners=align)
    return F.interpolate(
        x, scale_factor=tuple(factors[2:]), mode=name, align_corners=False, recompute_scale_factor=False
    )


@operator(NETWORK, "GridSample")
def _grid_sample(node: TorchNode) -> Function:
    mode = str(node.attributes.get("mode", "linear"))
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, align = str(node.attributes.get("padding_mode", "zeros")), bool(node.attributes.get("align_corners", 0))

    def sample(x: Tensor, grid: Tensor) -> Tensor:
        if mode == "bicubic" and x.dim() != 4:
            raise refuse(node, "it is cubic on other than four axes")
        return F.grid_sample(x, grid.to(x.dtype), mode=mode, padding_mode=padding, align_corners=align)

    return sample
