"""Layers that sum up or rank: reduce, softmax, top-k, cumulative sums, matrix products, normalisation, attention."""

from __future__ import annotations

import torch

from convkit.backends.tensorrt._replay._call import LayerCall, replays

__all__: list[str] = []


@replays("REDUCE")
def reduce(call: LayerCall) -> torch.Tensor:
    """Reduce over the axes of a mask; the mean of integers is cut off."""
    op, keep = call.attribute("op"), bool(call.attribute("keep_dims"))
    axes = call.axes()
    x = call.x
    if not axes:
        return x
    if op == "AVG":
        count = max(x.numel() // max(torch.empty(x.shape, device="meta").sum(axes).numel(), 1), 1)
        total = x.sum(axes, keepdim=keep)
        return total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="trunc")
    if op == "SUM":
        return x.sum(axes, keepdim=keep)
    for axis in sorted(axes, reverse=True):
        x = _reduce_axis(x, op, axis)
    return x if keep else x.squeeze(axes)


def _reduce_axis(x: torch.Tensor, op: str, axis: int) -> torch.Tensor:
    if op == "PROD":
        return x.prod(axis, keepdim=True)
    if x.shape[axis] == 0:
        worst = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
        low = float("-inf") if x.is_floating_point() else worst.min
        high = float("inf") if x.is_floating_point() else worst.max
        return x.new_full([1 if other == axis else n for other, n in enumerate(x.shape)], low if op == "MAX" else high)
    return x.amax(axis, keepdim=True) if op == "MAX" else x.amin(axis, keepdim=True)


@replays("SOFTMAX")
def softmax(call: LayerCall) -> torch.Tensor:
    """exp(x) over its sum along the axes of the mask."""
    axes = call.axes()
    powers = torch.exp(call.x - call.x.amax(axes, keepdim=True))
    return powers / powers.sum(axes, keepdim=True)


@replays("TOPK")
def top_k(call: LayerCall) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest or smallest along an axis, best first, and where they are; of equal ones the first."""
    k = call.integers(1)[0] if call.optional(1) is not None else int(call.attribute("k"))
    (axis,) = call.axes()
    order = torch.sort(call.x, dim=axis, descending=call.attribute("op") == "MAX", stable=True)
    return order.values.narrow(axis, 0, k), order.indices.narrow(axis, 0, k)


@replays("CUMULATIVE")
def cumulative(call: LayerCall) -> torch.Tensor:
    """Sums of what is before (after, if reversed) along the axis of input 1, without the element if exclusive."""
    axis = call.integers(1)[0]
    x = call.x.flip(axis) if call.attribute("reverse") else call.x
    sums = torch.cumsum(x, axis, dtype=x.dtype)
    if call.attribute("exclusive"):
        sums = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return sums.flip(axis) if call.attribute("reverse") else sums


@replays("MATRIX_MULTIPLY")
def matrix_multiply(call: LayerCall) -> torch.Tensor:
    """Multiply the last two axes, one of them transposed if so set, or vectors; the other axes are stretched."""
    a, b = call.x, call.tensor(1)
    op_a, op_b = call.attribute("op0"), call.attribute("op1")
    a = a.unsqueeze(-2) if op_a == "VECTOR" else a.transpose(-1, -2) if op_a == "TRANSPOSE" else a
    b = b.unsqueeze(-1) if op_b == "VECTOR" else b.transpose(-1, -2) if op_b == "TRANSPOSE" else b
    product = torch.matmul(a, b)
    if op_b == "VECTOR":
        product = product.squeeze(-1)
    return product.squeeze(-1 if op_b == "VECTOR" else -2) if op_a == "VECTOR" else product


@replays("EINSUM")
def einsum(call: LayerCall) -> torch.Tensor:
    """Sum of products in Einstein's notation."""
    equation = call.attribute("equation").replace(" ", "")
    return torch.einsum(equation, *(tensor for tensor in call.inputs if tensor is not None))


@replays("NORMALIZATION")
def normalization(call: LayerCall) -> torch.Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes of the mask.

    With groups, the channels of a group are normalised together, and scale and bias have one value a channel in
    version 2 of the layer, one a group in version 1.
    """
    x, scale, bias = call.x, call.tensor(1), call.tensor(2)
    axes, groups = call.axes(), int(call.attribute("num_groups"))
    if groups > 1:
        grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
        axes = sorted({2, *(axis + 1 for axis in axes if axis > 1)})
        if not call.attribute("is_v2"):
            scale, bias = (value.repeat_interleave(x.shape[1] // groups, dim=1) for value in (scale, bias))
    else:
        grouped = x
    mean = grouped.mean(axes, keepdim=True)
    variance = (grouped - mean).pow(2).mean(axes, keepdim=True)
    normal = (grouped - mean) / torch.sqrt(variance + call.attribute("epsilon"))
    return normal.reshape(x.shape) * scale + bias


@replays("ROTARY_EMBEDDING")
def rotary_embedding(call: LayerCall) -> torch.Tensor:
    """Turn pairs of the last axis of (batch x heads x time x size) by angles given as cosines and sines.

    A pair is an even element and the next one if interleaved, else an element and the one half of the size behind it;
    elements after ``rotary_embedding_dim`` (0: all turn) stay. Input 3 has each place's row of cosines and sines.
    """
    x, cosines, sines, rows = call.x, call.tensor(1), call.tensor(2), call.optional(3)
    if rows is not None:
        cosines, sines = cosines[rows.long()], sines[rows.long()]
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    size = int(call.attribute("rotary_embedding_dim")) or x.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    if call.attribute("interleaved"):
        a, b = turning[..., 0::2], turning[..., 1::2]
    else:
        a, b = turning[..., : size // 2], turning[..., size // 2 :]
    real, imaginary = a * cosines - b * sines, b * cosines + a * sines
    if call.attribute("interleaved"):
        turned = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        turned = torch.cat([real, imaginary], -1)
    return torch.cat([turned, rest], -1)


@replays("ATTENTION_INPUT")
def attention_input(call: LayerCall) -> torch.Tensor:
    """softmax(q k^T + mask) v for (batch x heads x time x size); fewer heads of k and v are shared by groups of q's.

    A boolean mask lets its true places through; CAUSAL masks let a place see those up to its own, counted from the
    first of both (UPPER_LEFT) or the last (LOWER_RIGHT).
    """
    query, key, value, mask = call.x, call.tensor(1), call.tensor(2), call.optional(3)
    if len(call.inputs) > 4 and call.optional(4) is not None:
        raise call.no_replay("attention with quantised weights")
    if call.attribute("query_form") not in (None, "PADDED_BHND"):
        raise call.no_replay("attention on packed sequences")
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = query @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    kind = call.attribute("causal_kind")
    if kind not in (None, "NONE"):
        rows, columns = scores.shape[-2:]
        shift = columns - rows if kind == "LOWER_RIGHT" else 0
        allowed = torch.ones(rows, columns, dtype=torch.bool).tril(shift)
        scores = scores.masked_fill(~allowed, float("-inf"))
    if call.attribute("norm_op") != "NONE":
        scores = torch.softmax(scores, -1)
    return scores @ value


@replays("ATTENTION_OUTPUT")
def attention_output(call: LayerCall) -> torch.Tensor:
    """What the attention's input layer computed."""
    return call.x
