"""Layers that move values and compute none: shuffle, slice, concatenate, gather, scatter, reverse, one-hot, shape."""

from __future__ import annotations

import torch

from convkit.backends.tensorrt._replay._call import LayerCall, replays

__all__: list[str] = []


def _permutation(call: LayerCall, name: str, rank: int) -> list[int]:
    """Return a permutation; the library reports eight numbers whatever the rank."""
    return [int(axis) for axis in call.attribute(name)[:rank]]


@replays("SHUFFLE")
def shuffle(call: LayerCall) -> torch.Tensor:
    """Transpose, reshape and transpose; in the new shape 0 stands for the old size if so set, -1 for what is left."""
    x = call.x.permute(_permutation(call, "first_transpose", call.x.ndim))
    shape = call.attribute("reshape_dims")
    if call.optional(1) is not None:
        shape = call.integers(1)
    if shape is not None:
        if call.attribute("zero_is_placeholder"):
            shape = [x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
        x = x.reshape(shape)
    return x.permute(_permutation(call, "second_transpose", x.ndim))


@replays("SQUEEZE", "UNSQUEEZE")
def squeeze(call: LayerCall) -> torch.Tensor:
    """Take dimensions of 1 out, all or those of the second input, or put them in."""
    axes = call.optional(1)
    if call.layer.type == "SQUEEZE":
        if axes is None:
            return call.x.squeeze()
        return call.x.squeeze([axis % call.x.ndim for axis in call.integers(1)] if call.x.ndim else [])
    numbers = call.integers(1)
    rank = call.x.ndim + len(numbers)
    result = call.x
    for axis in sorted(axis % rank for axis in numbers):
        result = result.unsqueeze(axis)
    return result


@replays("CONCATENATION")
def concatenation(call: LayerCall) -> torch.Tensor:
    """Join along an axis."""
    return torch.cat([tensor for tensor in call.inputs if tensor is not None], dim=call.attribute("axis"))


@replays("SLICE")
def slice_(call: LayerCall) -> torch.Tensor:
    """Element i of an axis is element start + i * stride of the input.

    Outside of the input: WRAP goes round, CLAMP stays at the border, REFLECT goes back without repeating the border,
    FILL has the value of input 4 (0 without one). Axes that are not named are taken whole.
    """
    start, shape, stride = call.integers(1, "start"), call.integers(2, "shape"), call.integers(3, "stride")
    named = call.integers(5) if call.optional(5) is not None else call.attribute("axes")
    axes = list(range(call.x.ndim)) if named is None else [int(axis) % call.x.ndim for axis in named]
    mode = call.attribute("mode")
    result, outside = call.x, torch.zeros([1] * call.x.ndim, dtype=torch.bool)
    for axis, first, count, step in zip(axes, start, shape, stride, strict=True):
        size = call.x.shape[axis]
        places = first + torch.arange(count) * step
        out = (places < 0) | (places >= size)
        if bool(out.any()):
            if mode == "STRICT_BOUNDS":
                raise ValueError(f"a slice beyond axis {axis} of size {size}: from {first}, {count} by {step}")
            if mode == "WRAP":
                places = places % size
            elif mode == "REFLECT":
                period = max(2 * (size - 1), 1)
                places = places.abs() % period
                places = torch.where(places >= size, period - places, places)
            else:
                places = places.clamp(0, max(size - 1, 0))
        if mode == "FILL":
            outside = outside | out.reshape([-1 if other == axis else 1 for other in range(call.x.ndim)])
        if size == 0:
            result = result.new_zeros([count if other == axis else n for other, n in enumerate(result.shape)])
        else:
            result = result.index_select(axis, places)
    if mode == "FILL":
        fill = call.optional(4)
        value = result.new_zeros(()) if fill is None else fill.to(result.dtype)
        result = torch.where(outside, value, result)
    return result


def _inside(indices: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return indices counted from the front, and which of them exist; a gather stores zero for the others."""
    indices = indices.long()
    indices = torch.where(indices < 0, indices + size, indices)
    valid = (indices >= 0) & (indices < size)
    return torch.where(valid, indices, 0), valid


@replays("GATHER")
def gather(call: LayerCall) -> torch.Tensor:
    """Take slices (DEFAULT), single elements (ELEMENT) or what tuples of indices point to (ND)."""
    data, indices, axis = call.x, call.tensor(1), int(call.attribute("axis"))
    shared, mode = int(call.attribute("num_elementwise_dims")), call.attribute("mode")
    if mode == "ELEMENT":
        places, valid = _inside(indices, data.shape[axis])
        return torch.where(valid, torch.gather(data, axis, places), data.new_zeros(()))
    if mode == "DEFAULT" and not shared:
        places, valid = _inside(indices, data.shape[axis])
        shape = [*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]]
        taken = data.index_select(axis, places.reshape(-1)).reshape(shape)
        return torch.where(valid.reshape([*indices.shape, *[1] * (data.ndim - axis - 1)]), taken, data.new_zeros(()))
    if mode == "DEFAULT":
        rows = max(data.shape[0], indices.shape[0])
        data, indices = (value.expand(rows, *value.shape[1:]) for value in (data, indices))
        places, valid = _inside(indices, data.shape[axis])
        return torch.stack([
            torch.where(
                good.reshape([*good.shape, *[1] * (row.ndim - axis)]),
                row.index_select(axis - 1, place.reshape(-1)).reshape([*row.shape[: axis - 1], *place.shape,
                                                                       *row.shape[axis:]]),
                row.new_zeros(()),
            )
            for row, place, good in zip(data, places, valid, strict=True)
        ])  # fmt: skip
    return _gather_tuples(data, indices, shared)


def _gather_tuples(data: torch.Tensor, indices: torch.Tensor, shared: int) -> torch.Tensor:
    """Take data[b..., i...] for each tuple i of the last axis of ``indices``; the first ``shared`` axes go together."""
    width = indices.shape[-1]
    batches = data.shape[:shared]
    flat_data = data.reshape(-1, *data.shape[shared:])
    flat = indices.reshape(flat_data.shape[0], -1, width)
    row = torch.arange(flat_data.shape[0]).reshape(-1, 1).expand(flat.shape[:2])
    places, valids = zip(*(_inside(flat[..., axis], data.shape[shared + axis]) for axis in range(width)), strict=True)
    where = (row, *places)
    taken = flat_data[where]
    valid = torch.stack(valids).all(0)
    taken = torch.where(valid.reshape([*valid.shape, *[1] * (taken.ndim - 2)]), taken, data.new_zeros(()))
    return taken.reshape(*batches, *indices.shape[shared:-1], *data.shape[shared + width :])


@replays("SCATTER")
def scatter(call: LayerCall) -> torch.Tensor:
    """Write updates into a copy of the data, at single elements (ELEMENT) or where tuples of indices point to (ND)."""
    data, indices, updates = call.x.clone(), call.tensor(1).long(), call.tensor(2)
    if call.attribute("mode") == "ELEMENT":
        axis = int(call.attribute("axis"))
        return data.scatter(axis, torch.where(indices < 0, indices + data.shape[axis], indices), updates)
    width = indices.shape[-1]
    places = tuple(
        torch.where(part < 0, part + size, part)
        for part, size in zip(indices.unbind(-1), data.shape[:width], strict=True)
    )
    data[places] = updates
    return data


@replays("REVERSE_SEQUENCE")
def reverse_sequence(call: LayerCall) -> torch.Tensor:
    """Reverse the first items of each sequence, as many as the second input says, and keep the rest."""
    batch, time = int(call.attribute("batch_axis")), int(call.attribute("sequence_axis"))
    x = call.x.movedim((batch, time), (0, 1))
    rows = []
    for row, length in zip(x, call.integers(1), strict=True):
        rows.append(torch.cat([row[:length].flip(0), row[length:]]))
    return torch.stack(rows).movedim((0, 1), (batch, time))


@replays("ONE_HOT")
def one_hot(call: LayerCall) -> torch.Tensor:
    """Input 1 has the values off and on, input 2 the depth; indices outside of it are off everywhere."""
    off, on = call.tensor(1)
    depth = call.integers(2)[0]
    indices = call.x.long()
    axis = int(call.attribute("axis"))
    hot = (torch.where(indices < 0, indices + depth, indices).unsqueeze(-1) == torch.arange(depth)).movedim(
        -1, axis if axis >= 0 else axis + indices.ndim + 1
    )
    return torch.where(hot, on, off)


@replays("SHAPE")
def shape(call: LayerCall) -> torch.Tensor:
    """The dimensions of the input."""
    return torch.tensor(list(call.x.shape), dtype=call.dtype)


@replays("NON_ZERO")
def non_zero(call: LayerCall) -> torch.Tensor:
    """The places that are not zero, an axis a row."""
    return call.x.nonzero().T.contiguous()


@replays("KV_CACHE_UPDATE")
def cache_update(call: LayerCall) -> torch.Tensor:
    """Write the update of each batch item into the cache (batch x heads x time x size) from its index on."""
    cache, update = call.x.clone(), call.tensor(1)
    for item, first in enumerate(call.integers(2)):
        if first + update.shape[2] <= cache.shape[2]:
            cache[item, :, first : first + update.shape[2]] = update[item]
    return cache
