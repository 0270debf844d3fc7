"""Layers that make values of nothing (constant, fill) and those that quantise and dequantise."""

from __future__ import annotations

import math

import torch

from convkit.backends.tensorrt._replay._call import LayerCall, replays
from convkit.backends.tensorrt._replay._pointwise import round_to

__all__: list[str] = []


@replays("CONSTANT")
def constant(call: LayerCall) -> torch.Tensor:
    """The weights of the layer in its shape."""
    values = call.weights("weights")
    shape = call.attribute("shape")
    return torch.empty(shape, dtype=call.dtype) if values is None else values.reshape(shape)


@replays("FILL LINSPACE")
def fill(call: LayerCall) -> torch.Tensor:
    """alpha + the sum over the axes of beta times the index."""
    shape = call.integers(0, "shape")
    alpha, beta = call.optional(1), call.optional(2)
    start = call.attribute("alpha") if alpha is None else alpha
    steps = torch.tensor([call.attribute("beta")]) if beta is None else beta.reshape(-1)
    result = torch.zeros(shape, dtype=call.dtype) + start
    if len(steps) != len(shape):
        raise call.no_replay(f"a fill of {len(shape)} axes with {len(steps)} steps")
    for axis, step in enumerate(steps):
        ramp = torch.arange(shape[axis], dtype=call.dtype) * step
        result = result + ramp.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return result.to(call.dtype)


def _along(values: torch.Tensor, like: torch.Tensor, axis: int) -> torch.Tensor:
    """Return scales or zero points in a shape that combines with ``like``: one, one a channel, or one a block."""
    if values.numel() == 1:
        return values.reshape(())
    if values.ndim == 1:
        return values.reshape([-1 if other == axis else 1 for other in range(like.ndim)])
    for other, (size, parts) in enumerate(zip(like.shape, values.shape, strict=True)):
        if size != parts:
            values = values.repeat_interleave(math.ceil(size / parts), other).narrow(other, 0, size)
    return values


@replays("QUANTIZE")
def quantize(call: LayerCall) -> torch.Tensor:
    """x / scale + zero point, rounded (ties to even) and limited to the range of the type."""
    axis = int(call.attribute("axis")) % max(call.x.ndim, 1)
    values = call.x / _along(call.tensor(1), call.x, axis)
    zero = call.optional(2)
    if zero is not None:
        values = torch.round(values) + _along(zero.to(values.dtype), call.x, axis) if zero.any() else values
    return round_to(call.results[0].dtype, values)


@replays("DEQUANTIZE")
def dequantize(call: LayerCall) -> torch.Tensor:
    """(x - zero point) * scale."""
    axis = int(call.attribute("axis")) % max(call.x.ndim, 1)
    scale = call.tensor(1)
    values = call.x.to(scale.dtype)
    zero = call.optional(2)
    if zero is not None:
        values = values - _along(zero.to(values.dtype), call.x, axis)
    return values * _along(scale, call.x, axis)
