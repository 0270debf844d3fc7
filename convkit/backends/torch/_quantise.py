"""Operators that turn floating values into whole numbers of few bits, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convkit.backends.torch._accept import refuse
from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator, torch_dtype
from convkit.graph.precision import FAKE_QUANTIZE

__all__ = ["QUANTISE"]

QUANTISE: dict[Key, Builder] = {}

_WHOLE = (torch.int8, torch.uint8, torch.int16)
_UP_TO_32 = (torch.float16, torch.bfloat16, torch.float32)


@operator(QUANTISE, "QuantizeLinear", types=_UP_TO_32, apart={2: _WHOLE})
def _quantize(node: TorchNode) -> Function:
    """Divide in float32, round half to even, add the zero point, and limit to the range of the type."""
    axis = _axis(node)
    number = int(node.attributes.get("output_dtype", 0))
    node.ignore("saturate")  # it is of 8-bit floating types alone
    if node.attributes.get("precision", 0) not in (0, 1):
        raise refuse(node, "it divides in another type than float32")
    zero = node.constant(2)
    if node.has(2) and zero is None:
        raise refuse(node, "its zero point is not a constant")
    named = torch.uint8 if zero is None and not number else torch_dtype(number) if number else None
    dtype = named or torch.tensor(zero).dtype
    if dtype not in _WHOLE:
        raise refuse(node, f"it makes {dtype}")
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max

    def quantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        found = torch.round(x.float() / _along(scale, axis, x.dim()).float())
        if zero is not None:
            found = found + _along(zero, axis, x.dim())
        return found.clamp(low, high).to(dtype)

    return quantize


@operator(QUANTISE, "DequantizeLinear", types=(*_WHOLE, torch.int32), apart={1: _UP_TO_32})
def _dequantize(node: TorchNode) -> Function | tuple[Function, Sequence[str]]:
    """Subtract the zero point, and multiply in float32; weights are computed once."""
    axis = _axis(node)
    number = int(node.attributes.get("output_dtype", 0))

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        whole = x.int() if zero is None else x.int() - _along(zero, axis, x.dim()).int()
        found = whole.float() * _along(scale, axis, x.dim()).float()
        return found.to(node.dtype(number) if number else scale.dtype)

    constants = [node.constant(place) for place in range(len(node.inputs)) if node.has(place)]
    known = [node.tensor(value) for value in constants if value is not None]
    if len(known) < len(constants):
        return dequantize
    values = dequantize(*known)
    return lambda: values, ()


def _fake_quantize(node: TorchNode) -> Function:
    """Round to steps of int8 and stay in the type of the input: the yardstick of int8 graphs, by PyTorch's own."""
    scales = torch.tensor(node.attributes["scales"], dtype=torch.float32)
    axis = int(node.attributes.get("axis", -1))

    def fake_quantize(x: Tensor) -> Tensor:
        if axis < 0:
            return torch.fake_quantize_per_tensor_affine(x.float(), float(scales[0]), 0, -127, 127).to(x.dtype)
        along, zeros = scales.to(x.device), torch.zeros(len(scales), dtype=torch.int32, device=x.device)
        return torch.fake_quantize_per_channel_affine(x.float(), along, zeros, axis, -127, 127).to(x.dtype)

    return fake_quantize


QUANTISE[FAKE_QUANTIZE] = _fake_quantize


def _axis(node: TorchNode) -> int:
    if node.attributes.get("block_size", 0):
        raise refuse(node, "it has a scale a block")
    return int(node.attributes.get("axis", 1))


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    """Return a scale or zero point so that it applies along an axis of a tensor with ``dims`` axes."""
    if values.dim() == 0 or dims == 0:
        return values.reshape(())
    shape = [1] * dims
    shape[axis] = -1
    return values.reshape(shape)
