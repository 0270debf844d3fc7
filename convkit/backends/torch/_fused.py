"""Chains of operators for which cuDNN has one call: convolution, sum and activation in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convkit.backends.torch._accept import unread_attributes
from convkit.backends.torch._network import symmetric
from convkit.backends.torch._node import Builder, Function, Key, TorchNode

__all__ = ["FUSED", "Convolution", "convolution"]

_HALF = (torch.float16, torch.bfloat16)
_NARROW = ("float16", "bfloat16")
_KIND = "cuda"
"""The kind of device that cuDNN runs on."""


class Convolution(NamedTuple):
    """Settings of a convolution in the order in which PyTorch takes them, one value an axis."""

    strides: list[int]
    padding: list[int]
    dilations: list[int]
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether each output reads one pixel, if the kernel is 1 x 1."""
        return self.strides == [1, 1] and self.padding == [0, 0] and self.groups == 1


def convolution(node: TorchNode) -> Convolution | None:
    """Return the settings of a 16-bit convolution that cuDNN computes; None for any other."""
    weight, get = node.constant(1), node.attributes.get
    if node.device.type != _KIND or weight is None or weight.ndim != 4:
        return None
    if weight.dtype.name not in _NARROW and node.precision not in _HALF:
        return None
    size = list(weight.shape[2:])
    pads = symmetric(get("pads") or [0, 0, 0, 0])
    if pads is None or get("auto_pad", "NOTSET") != "NOTSET" or get("kernel_shape", size) != size:
        return None
    return Convolution(list(get("strides") or [1, 1]), pads, list(get("dilations") or [1, 1]), get("group", 1))


def _conv_relu(node: TorchNode) -> tuple[Function, Sequence[str]] | None:
    conv = node.source(0)
    settings = convolution(conv) if conv else None
    if conv is None or settings is None:
        return None

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch.cudnn_convolution_relu(x, weight, bias, *settings)

    return run, conv.inputs


def _conv_add_relu(node: TorchNode) -> tuple[Function, Sequence[str]] | None:
    total = node.source(0)
    assert total is not None
    for position in (0, 1):
        conv = total.source(position)
        if conv is None or conv.op_type != "Conv" or not total.only_use(conv.outputs[0]) or not conv.has(2):
            continue
        settings = convolution(conv)
        if settings is None:
            return None
        return _two(conv, settings, total, 1 - position) or (
            _sum(settings), (*conv.inputs, total.inputs[1 - position]),
        )  # fmt: skip
    return None


def _two(
    conv: TorchNode, settings: Convolution, total: TorchNode, position: int
) -> tuple[Function, Sequence[str]] | None:
    """Return the function where what is added is a convolution too, whose bias then joins the other one."""
    other = total.source(position)
    if other is None or other.op_type != "Conv" or not total.only_use(other.outputs[0]) or not other.has(2):
        return None
    others, biases = convolution(other), (conv.constant(2), other.constant(2))
    if others is None or biases[0] is None or biases[1] is None or unread_attributes(other):
        return None
    bias = (conv.tensor(biases[0]).float() + conv.tensor(biases[1]).float()).to(conv.tensor(biases[0]).dtype)
    add = _sum(settings)

    def run(x: Tensor, weight: Tensor, beside: Tensor, filters: Tensor) -> Tensor:
        result: Tensor = add(x, weight, bias, torch.conv2d(beside, filters, None, *others))
        return result

    return run, (*conv.inputs[:2], *other.inputs[:2])


def _sum(settings: Convolution) -> Function:
    """Return the function of x, weight, bias and what is added to the convolution before the activation."""
    strides, pads, dilations, _ = settings

    def run(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
        sizes = [
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                x.shape[2:], pads, dilations, weight.shape[2:], strides, strict=True
            )
        ]
        if list(other.shape) != [x.shape[0], weight.shape[0], *sizes]:  # it is broadcast
            return torch.relu(torch.conv2d(x, weight, bias, *settings) + other)
        return torch.cudnn_convolution_add_relu(x, weight, other, 1.0, bias, *settings)

    return run


FUSED: dict[Key, Builder] = {("", "Conv+Relu"): _conv_relu, ("", "Conv+Add+Relu"): _conv_add_relu}
