"""Operators of networks: convolution, pooling, normalisation, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._accept import FLOATS, refuse
from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator

__all__ = ["NETWORK", "symmetric"]

NETWORK: dict[Key, Builder] = {}

_CONV: dict[int, Callable[..., Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Any]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL: dict[int, Callable[..., Any]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


_AUTO_PADS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


class _Window:
    """Kernel, strides, dilations and padding of a node; the padding may depend on the input's size.

    ``kernel`` is None where the weight alone says it, at each run.
    """

    def __init__(self, node: TorchNode) -> None:
        get = node.attributes.get
        kernel = get("kernel_shape")
        self.kernel = None if kernel is None else [int(size) for size in kernel]
        self._given = {name: list(get(name) or ()) for name in ("strides", "dilations", "pads")}
        self.auto = node.choice("auto_pad", "NOTSET", *_AUTO_PADS, "")
        if self.auto in _AUTO_PADS[1:]:
            self._given["pads"] = []

    def of(self, node: TorchNode, kernel: Sequence[int]) -> _WindowOf:
        """Return the window of a weight.

        Raises:
            EnvironmentProblem: the node says another size, or settings of another number of axes.
        """
        axes = len(kernel)
        if self.kernel not in (None, list(kernel)):
            raise refuse(node, f"its kernel_shape is {self.kernel}, but its weight has {list(kernel)}")
        lengths = {name: len(values) for name, values in self._given.items() if values}
        if any(length != axes * (2 if name == "pads" else 1) for name, length in lengths.items()) or axes > 3:
            raise refuse(node, f"its kernel has {axes} axes, its settings {lengths}")
        strides, dilations, pads = (self._given[name] for name in ("strides", "dilations", "pads"))
        return _WindowOf(
            list(kernel), strides or [1] * axes, dilations or [1] * axes, pads or [0] * (2 * axes), self.auto
        )


@dataclass(frozen=True)
class _WindowOf:
    """A window with numbers for each axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    auto: str

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

    def rounded_up(self, sizes: Sequence[int], pads: Sequence[int]) -> list[int]:
        """Return how many windows a pool has along each axis where it rounds up; none begins behind the input."""
        half, counts = len(pads) // 2, []
        for axis, size in enumerate(sizes):
            extent = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            count = -((extent - size - pads[axis] - pads[axis + half]) // self.strides[axis]) + 1
            counts.append(count - ((count - 1) * self.strides[axis] >= size + pads[axis]))
        return counts


def symmetric(pads: Sequence[int]) -> list[int] | None:
    """Return one padding an axis, or None where the two ends of an axis differ."""
    half = len(pads) // 2
    return list(pads[:half]) if list(pads[:half]) == list(pads[half:]) else None


def _apply_padding(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    half = len(pads) // 2
    flat = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
    return F.pad(x, flat, value=value)


def _pool(node: TorchNode) -> _WindowOf:
    """Return the window of a pool."""
    window = _Window(node)
    if not window.kernel:
        raise refuse(node, "it has no kernel_shape")
    return window.of(node, window.kernel)


@operator(NETWORK, "Conv", types=FLOATS)
def _conv(node: TorchNode) -> Function:
    groups, given = node.attributes.get("group", 1), _Window(node)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = given.of(node, weight.shape[2:])
        pads = window.padding(x.shape[2:])
        even = symmetric(pads)
        if even is None:
            x, even = _apply_padding(x, pads), [0] * len(window.kernel)
        function = _CONV[len(window.kernel)]
        return function(x, weight, bias, window.strides, even, window.dilations, groups)  # type: ignore[no-any-return]

    return run


@operator(NETWORK, "ConvTranspose", types=FLOATS)
def _conv_transpose(node: TorchNode) -> Function:
    groups, extra, given = node.attributes.get("group", 1), node.attributes.get("output_padding"), _Window(node)
    if given.auto.startswith("SAME") or "output_shape" in node.attributes:
        raise refuse(node, "its padding is not given as numbers")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = given.of(node, weight.shape[2:])
        even = symmetric(window.pads)
        padding, added = even or [0] * len(window.kernel), extra or [0] * len(window.kernel)
        function = _TRANSPOSED[len(window.kernel)]
        result = function(x, weight, bias, window.strides, padding, added, groups, window.dilations)
        return result if even is not None else _apply_padding(result, [-amount for amount in window.pads])

    return run


@operator(NETWORK, "MaxPool", types=FLOATS | {torch.int8, torch.uint8})
def _max_pool(node: TorchNode) -> Function:
    window, ceil = _pool(node), bool(node.attributes.get("ceil_mode", 0))
    node.ignore("storage_order")  # it is about the indices
    function = _MAX_POOL[len(window.kernel)]

    def run(x: Tensor) -> Tensor:
        sizes, pads = x.shape[2:], window.padding(x.shape[2:])
        even = symmetric(pads)
        explicit = even is None or any(2 * amount > size for amount, size in zip(even, window.kernel, strict=True))
        if explicit:
            lowest = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
            x, even = _apply_padding(x, pads, lowest), [0] * len(window.kernel)
        result = function(x, window.kernel, window.strides, even, window.dilations, ceil_mode=ceil)
        return _inside(result, window.rounded_up(sizes, pads)) if ceil and explicit else result

    return run


def _inside(result: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the windows that ONNX has: PyTorch takes padding that was made before the pool for a part of the input."""
    for axis, count in enumerate(counts, 2):
        result = result.narrow(axis, 0, count)
    return result


@operator(NETWORK, "AveragePool", types=FLOATS)
def _average_pool(node: TorchNode) -> Function:
    window, ceil = _pool(node), bool(node.attributes.get("ceil_mode", 0))
    include = bool(node.attributes.get("count_include_pad", 0))
    if any(dilation != 1 for dilation in window.dilations):
        raise refuse(node, "it is dilated")
    function = _AVERAGE_POOL[len(window.kernel)]

    def run(x: Tensor) -> Tensor:
        sizes, pads = x.shape[2:], window.padding(x.shape[2:])
        even = symmetric(pads)
        if even is not None:
            return function(  # type: ignore[no-any-return]
                x, window.kernel, window.strides, even, ceil_mode=ceil, count_include_pad=include
            )
        pooled = function(_apply_padding(x, pads), window.kernel, window.strides, ceil_mode=ceil)
        if not include:
            inside = _apply_padding(torch.ones_like(x[:1, :1]), pads)
            pooled = pooled / function(inside, window.kernel, window.strides, ceil_mode=ceil)
        return _inside(pooled, window.rounded_up(sizes, pads)) if ceil else pooled

    return run


@operator(NETWORK, "GlobalAveragePool", "GlobalMaxPool", types=FLOATS)
def _global_pool(node: TorchNode) -> Function:
    if node.op_type == "GlobalMaxPool":
        return lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)
    return lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)


@operator(NETWORK, "BatchNormalization", types=FLOATS)
def _batch_norm(node: TorchNode) -> Function:
    if node.attributes.get("training_mode", 0):
        raise refuse(node, "it is in training mode")
    if node.attributes.get("spatial", 1) != 1:
        raise refuse(node, "it has a mean of each position")
    node.ignore("momentum")
    epsilon = float(node.attributes.get("epsilon", 1e-5))

    def run(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        factor = scale.to(wide) * torch.rsqrt(variance.to(wide) + epsilon)
        rest = shift.to(wide) - mean.to(wide) * factor
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(rest.to(x.dtype).view(shape), x, factor.to(x.dtype).view(shape))

    return run


@operator(NETWORK, "InstanceNormalization", types=FLOATS)
def _instance_norm(node: TorchNode) -> Function:
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    return lambda x, scale, shift: F.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


@operator(NETWORK, "LayerNormalization", types=FLOATS)
def _layer_norm(node: TorchNode) -> Function:
    axis, epsilon = node.attributes.get("axis", -1), float(node.attributes.get("epsilon", 1e-5))
    if node.attributes.get("stash_type", 1) != 1:
        raise refuse(node, "its mean and deviation are not float32")

    def run(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        return F.layer_norm(x, shape, scale.expand(shape), None if shift is None else shift.expand(shape), epsilon)

    return run


@operator(NETWORK, "GridSample", types=FLOATS)
def _grid_sample(node: TorchNode) -> Function:
    mode = node.choice("mode", "linear", "linear", "bilinear", "nearest", "cubic", "bicubic")
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding = node.choice("padding_mode", "zeros", "zeros", "border", "reflection")
    align = bool(node.attributes.get("align_corners", 0))

    def sample(x: Tensor, grid: Tensor) -> Tensor:
        if mode == "bicubic" and x.dim() != 4:
            raise refuse(node, "it is cubic on other than four axes")
        return F.grid_sample(x, grid.to(x.dtype), mode=mode, padding_mode=padding, align_corners=align)

    return sample
