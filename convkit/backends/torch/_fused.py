"""Chains of operators for which cuDNN has one call: convolution, sum and activation in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convkit.backends.torch._network import symmetric
from convkit.backends.torch._node import Builder, Function, Key, TorchNode

__all__ = ["FUSED"]

_HALF = (torch.float16, torch.bfloat16)
_NARROW = ("float16", "bfloat16")
_KIND = "cuda"
"""The kind of device that cuDNN runs on."""


def _settings(node: TorchNode) -> tuple[list[int], list[int], list[int], int] | None:
    """Return strides, padding, dilations and groups of a convolution that cuDNN fuses; None for any other."""
    weight, get = node.constant(1), node.attributes.get
    if node.device.type != _KIND or weight is None or weight.ndim != 4:
        return None
    if weight.dtype.name not in _NARROW and node.precision not in _HALF:
        return None
    size = list(weight.shape[2:])
    pads = symmetric(get("pads") or [0, 0, 0, 0])
    if pads is None or get("auto_pad", "NOTSET") != "NOTSET" or get("kernel_shape", size) != size:
        return None
    return list(get("strides") or [1, 1]), pads, list(get("dilations") or [1, 1]), get("group", 1)


def _conv_relu(node: TorchNode) -> tuple[Function, Sequence[str]] | None:
    conv = node.source(0)
    settings = _settings(conv) if conv else None
    if conv is None or settings is None:
        return None
    strides, pads, dilations, groups = settings

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.cudnn_convolution_relu(x, weight, bias, strides, pads, dilations, groups)

    return run, conv.inputs


def _conv_add_relu(node: TorchNode) -> tuple[Function, Sequence[str]] | None:
    total = node.source(0)
    assert total is not None
    for position in (0, 1):
        conv = total.source(position)
        if conv is None or conv.op_type != "Conv" or not total.only_use(conv.outputs[0]) or not conv.has(2):
            continue
        settings = _settings(conv)
        if settings is None:
            return None
        return _sum(*settings), (*conv.inputs, total.inputs[1 - position])
    return None


def _sum(strides: list[int], pads: list[int], dilations: list[int], groups: int) -> Function:
    """Return the function of x, weight, bias and what is added to the convolution before the activation."""

    def run(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
        sizes = [
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                x.shape[2:], pads, dilations, weight.shape[2:], strides, strict=True
            )
        ]
        if list(other.shape) != [x.shape[0], weight.shape[0], *sizes]:  # it is broadcast
            return torch.relu(torch.conv2d(x, weight, bias, strides, pads, dilations, groups) + other)
        return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, strides, pads, dilations, groups)

    return run


FUSED: dict[Key, Builder] = {("", "Conv+Relu"): _conv_relu, ("", "Conv+Add+Relu"): _conv_add_relu}
