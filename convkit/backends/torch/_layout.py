"""Operators that move values about, and those that compute shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._accept import ANY, INTEGERS, NUMBERS, refuse
from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator

__all__ = ["LAYOUT"]

LAYOUT: dict[Key, Builder] = {}


@operator(LAYOUT, "Shape", types=ANY, gives_host=True)
def _shape(node: TorchNode) -> Function:
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


@operator(LAYOUT, "Size", types=ANY, gives_host=True)
def _size(node: TorchNode) -> Function:
    return lambda x: torch.tensor(x.numel(), dtype=torch.int64)


@operator(LAYOUT, "Cast", types=ANY)
def _cast(node: TorchNode) -> Function:
    dtype = node.dtype(node.attributes["to"])
    node.ignore("saturate", "round_mode")  # they say how to round to the types of 8 bits, which the backend lacks
    return lambda x: x.to(dtype)


@operator(LAYOUT, "CastLike", types=ANY)
def _cast_like(node: TorchNode) -> Function:
    node.ignore("saturate", "round_mode")
    return lambda x, like: x.to(like.dtype)


@operator(LAYOUT, "Reshape", types=ANY, host=(1,))
def _reshape(node: TorchNode) -> Function:
    given, allow_zero = node.integers(1), node.attributes.get("allowzero", 0)

    def reshape(x: Tensor, shape: Tensor) -> Tensor:
        wanted = given if given is not None else shape.tolist()
        if not allow_zero:
            wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
        return torch.reshape(x, tuple(wanted))

    return reshape


@operator(LAYOUT, "Flatten", types=ANY)
def _flatten(node: TorchNode) -> Function:
    axis = node.attributes.get("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        rows = int(np.prod(x.shape[:axis], dtype=np.int64))
        return x.reshape(rows, -1) if x.numel() else x.reshape(rows, int(np.prod(x.shape[axis:], dtype=np.int64)))

    return flatten


@operator(LAYOUT, "Squeeze", types=ANY, host=(1,))
def _squeeze(node: TorchNode) -> Function:
    given = node.integers(1, "axes")

    def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = given if given is not None else axes.tolist() if axes is not None else None
        return x.squeeze() if listed is None else x.squeeze(tuple(listed))

    return squeeze


@operator(LAYOUT, "Unsqueeze", types=ANY, host=(1,))
def _unsqueeze(node: TorchNode) -> Function:
    given = node.integers(1, "axes")

    def unsqueeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        listed = given if given is not None else axes.tolist() if axes is not None else []
        rank = x.dim() + len(listed)
        for axis in sorted(axis % rank for axis in listed):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


@operator(LAYOUT, "Transpose", types=ANY)
def _transpose(node: TorchNode) -> Function:
    order = node.attributes.get("perm")
    return lambda x: torch.permute(x, tuple(order if order is not None else range(x.dim() - 1, -1, -1)))


@operator(LAYOUT, "Concat", types=ANY)
def _concat(node: TorchNode) -> Function:
    axis = node.attributes["axis"]
    return lambda *values: torch.cat(values, axis)


@operator(LAYOUT, "Split", types=ANY, outputs=None, host=(1,))
def _split(node: TorchNode) -> Function:
    axis, given = node.attributes.get("axis", 0), node.integers(1, "split")
    parts = node.attributes.get("num_outputs", len(node.outputs))

    def split(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        listed = given if given is not None else sizes.tolist() if sizes is not None else None
        return torch.split(x, listed if listed is not None else -(-x.shape[axis] // parts), axis)

    return split


@operator(LAYOUT, "Slice", types=ANY, host=(1, 2, 3, 4))
def _slice(node: TorchNode) -> Function:
    given = [node.integers(1, "starts"), node.integers(2, "ends"), node.integers(3, "axes"), node.integers(4)]

    def cut(x: Tensor, *runtime: Tensor | None) -> Tensor:
        values = [
            known if known is not None or value is None else value.tolist()
            for known, value in zip(given, [*runtime, *[None] * len(given)], strict=False)
        ]
        starts, ends = values[0] or [], values[1] or []
        axes, steps = values[2] or range(len(starts)), values[3] or [1] * len(starts)
        for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
            x = _cut(x, axis, start, end, step)
        return x

    return cut


def _cut(x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    chosen = range(x.shape[axis])[slice(*_bounds(start, end, step, x.shape[axis]), step)]
    if step > 0:
        index = [slice(None)] * x.dim()
        index[axis] = slice(chosen.start, chosen.stop, step)
        return x[tuple(index)]
    length = len(chosen)
    if not length:
        return x.narrow(axis, 0, 0)
    turned = x.narrow(axis, chosen[-1], chosen[0] - chosen[-1] + 1).flip(axis)
    index = [slice(None)] * x.dim()
    index[axis] = slice(None, None, -step)
    return turned[tuple(index)]


def _bounds(start: int, end: int, step: int, size: int) -> tuple[int | None, int | None]:
    """Return Python's start and stop for ONNX's, where an end of -size - 1 or less means before the first."""
    if step < 0 and end < -size:
        return start, None
    return start, end


@operator(LAYOUT, "Gather", types=ANY)
def _gather(node: TorchNode) -> Function:
    axis, known = node.attributes.get("axis", 0), node.constant(1)

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        if known is not None and known.ndim == 0:
            return x.select(axis, int(known))
        flat = _positive(indices.reshape(-1).long(), x.shape[axis])
        along = axis % x.dim()
        return x.index_select(along, flat).reshape(*x.shape[:along], *indices.shape, *x.shape[along + 1 :])

    return gather


@operator(LAYOUT, "GatherElements", types=ANY)
def _gather_elements(node: TorchNode) -> Function:
    axis = node.attributes.get("axis", 0)
    return lambda x, indices: x.gather(axis, _positive(indices.long(), x.shape[axis]))


@operator(LAYOUT, "GatherND", types=ANY)
def _gather_nd(node: TorchNode) -> Function:
    axes = node.attributes.get("batch_dims", 0)
    if not axes:
        return lambda x, indices: x[tuple(indices.long().unbind(-1))]

    def gather(x: Tensor, indices: Tensor) -> Tensor:
        batch = x.shape[:axes]
        places = indices.long().reshape(math.prod(batch), *indices.shape[axes:])
        row = torch.arange(len(places), device=x.device).view(-1, *[1] * (places.dim() - 2))
        chosen = (row, *places.unbind(-1))
        found = x.reshape(len(places), *x.shape[axes:])[chosen]
        return found.reshape(*batch, *found.shape[1:])

    return gather


@operator(LAYOUT, "ScatterND", types=ANY)
def _scatter_nd(node: TorchNode) -> Function:
    node.choice("reduction", "none", "none")

    def scatter(x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        return x.index_put(tuple(indices.long().unbind(-1)), updates)

    return scatter


def _positive(indices: Tensor, size: int) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


@operator(LAYOUT, "Expand", types=ANY, host=(1,))
def _expand(node: TorchNode) -> Function:
    def expand(x: Tensor, shape: Tensor) -> Tensor:
        return x.expand(np.broadcast_shapes(x.shape, tuple(shape.tolist())))

    return expand


@operator(LAYOUT, "Tile", types=ANY, host=(1,))
def _tile(node: TorchNode) -> Function:
    return lambda x, repeats: torch.tile(x, tuple(repeats.tolist()))


@operator(LAYOUT, "ConstantOfShape", types=INTEGERS, host=(0,))
def _constant_of_shape(node: TorchNode) -> Function:
    value = node.tensor(np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).reshape(()))
    return lambda shape: value.to(shape.device if value.dtype == torch.int64 else value.device).expand(
        tuple(shape.tolist())
    )


@operator(LAYOUT, "Range", types=NUMBERS)
def _range(node: TorchNode) -> Function:
    if node.attributes.get("stash_type", 1) != 1:
        raise refuse(node, f"its stash_type is {node.attributes['stash_type']}")

    def arange(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
        return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)

    return arange


@operator(LAYOUT, "Pad", types=NUMBERS, host=(1, 2, 3))
def _pad(node: TorchNode) -> Function:
    mode = node.choice("mode", "constant", "constant", "reflect", "edge", "wrap")
    given, listed = node.integers(1, "pads"), node.integers(3)
    named = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)
    fill = node.attributes.get("value", 0.0)

    def pad(x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        amounts = given if given is not None else pads.tolist() if pads is not None else []
        chosen = listed if listed is not None else axes.tolist() if axes is not None else list(range(x.dim()))
        flat = [0] * (2 * x.dim())
        for place, axis in enumerate(chosen):
            last = 2 * (x.dim() - 1 - axis % x.dim())
            flat[last : last + 2] = amounts[place], amounts[place + len(chosen)]
        if mode == "constant":
            return F.pad(x, flat, value=fill if value is None else value.item())
        while len(flat) > 2 and flat[-2:] == [0, 0] and len(flat) > 2 * (x.dim() - 2):
            flat = flat[:-2]
        return F.pad(x, flat, mode=named)

    return pad


@operator(LAYOUT, "DepthToSpace", types=ANY)
def _depth_to_space(node: TorchNode) -> Function:
    size = node.attributes["blocksize"]
    if node.choice("mode", "DCR", "DCR", "CRD") == "CRD":
        return lambda x: F.pixel_shuffle(x, size)

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(batch, channels // size**2, height * size, width * size)

    return run


@operator(LAYOUT, "SpaceToDepth", types=ANY)
def _space_to_depth(node: TorchNode) -> Function:
    size = node.attributes["blocksize"]
    if node.choice("mode", "DCR", "DCR", "CRD") == "CRD":
        return lambda x: F.pixel_unshuffle(x, size)

    def run(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        blocks = x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 3, 5, 1, 2, 4)
        return blocks.reshape(batch, channels * size**2, height // size, width // size)

    return run
