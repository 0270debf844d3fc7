"""Operators of 16-bit networks on a GPU by the kernels of `_gpu`, with cuDNN and cuBLAS where these do it best.

cuDNN's calls in PyTorch add a bias in a pass of its own, which takes as long as the convolution where there are few
channels; max pooling computes indices; the first layer is padded from 3 channels to 8, and a layer with 2 or 27 filters
to the next multiple of 8 at each run. Each builder here falls back on PyTorch's operator for tensors of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch import _gpu
from convkit.backends.torch._accept import FLOATS
from convkit.backends.torch._fused import FUSED, Convolution, convolution
from convkit.backends.torch._kernels import FirstLayer
from convkit.backends.torch._network import NETWORK
from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator

__all__ = ["GPU"]

GPU: dict[Key, Builder] = {}

_POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
"""The pooling that the kernel of the first layer computes."""
_PIECE = 8


class _Layer(NamedTuple):
    """A convolution whose weight and bias are constants, on the device; ``filters`` before the weight was padded."""

    settings: Convolution
    weight: Tensor
    bias: Tensor
    filters: int


def _layer(node: TorchNode, axis: int = 0) -> _Layer | None:
    """Return the layer of a Conv or ConvTranspose in 16 bits; None if the kernels cannot serve it.

    The filters, axis ``axis`` of the weight, are padded to a multiple of 8.
    """
    settings = convolution(node) if _gpu.has_kernels(node.device) else None
    weight, bias = node.constant(1), node.constant(2)
    if settings is None or weight is None or (bias is None and node.has(2)):
        return None
    filters = weight.shape[axis]
    bias = np.zeros(filters, weight.dtype) if bias is None else bias
    more = -filters % _PIECE if settings.groups == 1 else 0
    padded = np.pad(weight, [(0, more if place == axis else 0) for place in range(4)]) if more else weight
    tensor = node.tensor(padded).contiguous(memory_format=torch.channels_last)
    return _Layer(settings, tensor, node.tensor(np.pad(bias, (0, more)) if more else bias), filters)


@operator(GPU, "Conv", types=FLOATS)
def _conv(node: TorchNode) -> Function | tuple[Function, Sequence[str]]:
    """Return a function that adds the bias where the convolution is computed, or in a short pass behind it."""
    plain = NETWORK["", "Conv"](node)
    assert callable(plain)
    layer = _layer(node) if node.has(2) else None
    if layer is None or len(layer.weight) % _PIECE:
        return plain
    settings, weight, bias, filters = layer
    narrow, added = weight[:filters], bias[:filters]
    pointwise = settings.pointwise and list(weight.shape[2:]) == [1, 1]
    few = pointwise and filters <= _gpu.MOST_FEW
    matrix = weight.flatten(1).t()

    def run(x: Tensor) -> Tensor:
        if pointwise and (pitch := _gpu.pixel_pitch(x)) is not None and x.numel():
            if few and (found := _gpu.few_filters(x, narrow, added)) is not None:
                return found
            if pitch % _PIECE == 0:
                batch, channels, height, width = x.shape
                rows = x.as_strided((batch * height * width, channels), (pitch, 1))
                pixels = torch.addmm(bias, rows, matrix).view(batch, height, width, len(weight))
                return pixels.permute(0, 3, 1, 2)[:, :filters]
        result = torch.conv2d(x, weight, None, *settings)
        if _gpu.add_bias(result, bias, relu=False) is None:
            return torch.conv2d(x, narrow, added, *settings)
        return result[:, :filters]

    return run, node.inputs[:1]


@operator(GPU, "ConvTranspose", types=FLOATS)
def _conv_transpose(node: TorchNode) -> Function | tuple[Function, Sequence[str]]:
    plain = NETWORK["", "ConvTranspose"](node)
    assert callable(plain)
    return _transposed(node, plain, relu=False) or _depthwise(node, plain, relu=False) or plain


def _conv_transpose_relu(node: TorchNode) -> tuple[Function, Sequence[str]] | None:
    source = node.source(0)
    assert source is not None
    plain = NETWORK["", "ConvTranspose"](source)
    assert callable(plain)
    return _transposed(source, plain, relu=True) or _depthwise(source, plain, relu=True)


def _transposed(node: TorchNode, plain: Function, *, relu: bool) -> tuple[Function, Sequence[str]] | None:
    """Return a function of x that adds the bias, and applies the ReLU, in one pass behind the convolution."""
    layer = _layer(node, axis=1) if node.has(2) else None
    if layer is None or layer.weight.shape[1] != layer.filters or layer.settings.groups != 1:
        return None

    def run(x: Tensor) -> Tensor:
        result: Tensor = plain(x, layer.weight, None)
        if _gpu.add_bias(result, layer.bias, relu=relu) is None:
            result = plain(x, layer.weight, layer.bias)
            return result.relu() if relu else result
        return result

    return run, node.inputs[:1]


def _depthwise(node: TorchNode, plain: Function, *, relu: bool) -> tuple[Function, Sequence[str]] | None:
    """Return a function of x where each channel has one filter, for which cuDNN takes thirty times as long."""
    settings = convolution(node) if _gpu.has_kernels(node.device) else None
    weight, bias = node.constant(1), node.constant(2)
    if settings is None or weight is None or (bias is None and node.has(2)):
        return None
    channels, filters = weight.shape[:2]
    extra = node.attributes.get("output_padding") or [0]
    if filters != 1 or settings.groups != channels or settings.dilations != [1, 1] or any(extra) or channels % _PIECE:
        return None
    given, added = node.tensor(weight), None if bias is None else node.tensor(bias)
    packed = given[:, 0].permute(1, 2, 0).contiguous()

    def run(x: Tensor) -> Tensor:
        found = _gpu.depthwise_transposed(x, packed, added, settings.strides, settings.padding, relu=relu)
        if found is not None:
            return found
        result: Tensor = plain(x, given, added)
        return result.relu() if relu else result

    return run, node.inputs[:1]


@operator(GPU, "MaxPool", types=FLOATS | {torch.int8, torch.uint8})
def _max_pool(node: TorchNode) -> Function:
    plain = NETWORK["", "MaxPool"](node)
    assert callable(plain)
    get = node.attributes.get
    kernel, pads = list(get("kernel_shape") or []), list(get("pads") or [0, 0, 0, 0])
    axes = len(kernel)
    stride, dilation = list(get("strides") or [1] * axes), list(get("dilations") or [1] * axes)
    usual = (
        axes == 2 and pads[:2] == pads[2:] and get("auto_pad", "NOTSET") == "NOTSET" and not get("ceil_mode", 0)
        and all(2 * pad <= size for pad, size in zip(pads, kernel, strict=False))
    )  # fmt: skip
    if not usual or not _gpu.has_kernels(node.device):
        return plain

    def run(x: Tensor) -> Tensor:
        found = _gpu.max_pool(x, kernel, stride, pads[:2], dilation)
        return plain(x) if found is None else found

    return run


def _first_layer(node: TorchNode, *, pool: bool) -> tuple[Function, Sequence[str]] | None:
    """Return the function of a Conv with a ReLU, and a pooling behind it if ``pool``; None if the kernel lacks it."""
    settings = convolution(node) if _gpu.has_kernels(node.device) else None
    weight, bias = node.constant(1), node.constant(2)
    if settings is None or weight is None or (bias is None and node.has(2)):
        return None
    filters, channels, kernel, width = weight.shape
    (stride, across), (padding, beside) = settings.strides, settings.padding
    square = (kernel, stride, padding) == (width, across, beside)
    if not square or settings.dilations != [1, 1] or settings.groups != 1 or min(kernel, filters) < 2:
        return None
    layer = FirstLayer(filters, channels, kernel, stride, padding, pool)
    if not layer.served:
        return None
    given = node.tensor(weight).contiguous(memory_format=torch.channels_last)
    added = node.tensor(np.zeros(filters, weight.dtype) if bias is None else bias)
    packed = _gpu.pack_first_layer(layer, given)

    def run(x: Tensor) -> Tensor:
        found = _gpu.first_layer(layer, x, packed, added)
        if found is not None:
            return found
        result = torch.conv2d(x, given, added, *settings).relu()
        return F.max_pool2d(result, 3, 2, 1) if pool else result

    return run, node.inputs[:1]


def _conv_relu(node: TorchNode) -> Function | tuple[Function, Sequence[str]] | None:
    source = node.source(0)
    assert source is not None
    return _first_layer(source, pool=False) or FUSED["", "Conv+Relu"](node)


def _conv_relu_max_pool(node: TorchNode) -> tuple[Function, Sequence[str]] | None:
    relu = node.source(0)
    conv = relu.source(0) if relu is not None else None
    get = node.attributes.get
    usual = all(get(name) == value for name, value in _POOL.items()) and (get("dilations") or [1, 1]) == [1, 1]
    node.ignore("storage_order")
    if conv is None or not usual or get("ceil_mode", 0) or get("auto_pad", "NOTSET") != "NOTSET":
        return None
    return _first_layer(conv, pool=True)


GPU["", "Conv+Relu"] = _conv_relu
GPU["", "Conv+Relu+MaxPool"] = _conv_relu_max_pool
GPU["", "ConvTranspose+Relu"] = _conv_transpose_relu
