"""Layers that move a window: convolution, deconvolution, pooling, local response normalisation, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from convkit.backends.tensorrt._replay._call import LayerCall, replays

__all__: list[str] = []

Pads = list[tuple[int, int]]
Operation = Callable[..., torch.Tensor]

_CONV: dict[int, Operation] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONV: dict[int, Operation] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL: dict[int, Operation] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _same(total: int, mode: str) -> tuple[int, int]:
    """Split padding: SAME_UPPER puts the odd one behind, SAME_LOWER before."""
    half = total // 2
    return (half, total - half) if mode == "SAME_UPPER" else (total - half, half)


def _window_pads(call: LayerCall, extents: Sequence[int]) -> Pads:
    """Return the padding of a convolution or pooling a spatial axis; ``extents`` are those of the window, dilated.

    SAME: floor((I - 1) / S) * S + K - I in all, for input I, stride S and window K. EXPLICIT: as given; ROUND_UP adds
    behind what the last window lacks.
    """
    mode, stride = call.attribute("padding_mode"), call.attribute("stride_nd")
    sizes = call.x.shape[2:]
    if mode.startswith("SAME"):
        totals = [
            (size - 1) // step * step + extent - size for size, step, extent in zip(sizes, stride, extents, strict=True)
        ]
        if min(totals) < 0:
            raise call.no_replay("SAME padding of windows that leave pixels out, of which TensorRT does not say enough")
        return [_same(total, mode) for total in totals]
    pads = list(zip(call.attribute("pre_padding"), call.attribute("post_padding"), strict=True))
    if mode == "EXPLICIT_ROUND_UP":
        return [
            (before, after + -(size + before + after - extent) % step)
            for (before, after), size, step, extent in zip(pads, sizes, stride, extents, strict=True)
        ]
    return pads


def _pad(x: torch.Tensor, pads: Pads, value: float = 0.0) -> torch.Tensor:
    """Pad the last axes; negative numbers crop."""
    flat = [number for pair in reversed(pads) for number in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _kernel(call: LayerCall, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return kernel and bias, each from an input if the layer has it, else from its weights."""
    kernel = call.optional(1)
    if kernel is None:
        kernel = call.weights("kernel")
        if kernel is None:
            raise call.no_replay("a convolution without a kernel")
        kernel = kernel.reshape(list(shape))
    bias = call.optional(2)
    return kernel, bias if bias is not None else call.weights("bias")


def _dilated(call: LayerCall) -> list[int]:
    """Return how far the kernel reaches along each axis."""
    sizes, dilations = call.attribute("kernel_size_nd"), call.attribute("dilation_nd")
    return [1 + dilation * (size - 1) for size, dilation in zip(sizes, dilations, strict=True)]


@replays("CONVOLUTION")
def convolution(call: LayerCall) -> torch.Tensor:
    """Correlate; kernels are outputs x inputs of a group x window."""
    size, groups = call.attribute("kernel_size_nd"), call.attribute("num_groups")
    kernel, bias = _kernel(call, [call.attribute("num_output_maps"), call.x.shape[1] // groups, *size])
    pads, x = _window_pads(call, _dilated(call)), call.x
    inside = tuple(before if before == after and before >= 0 else 0 for before, after in pads)
    x = _pad(x, [(before - own, after - own) for (before, after), own in zip(pads, inside, strict=True)])
    dilation, stride = tuple(call.attribute("dilation_nd")), tuple(call.attribute("stride_nd"))
    return _CONV[len(size)](
        x, kernel.to(x.dtype), bias, stride=stride, padding=inside, dilation=dilation, groups=groups
    )


@replays("DECONVOLUTION")
def deconvolution(call: LayerCall) -> torch.Tensor:
    """Spread each value by a kernel of inputs x outputs of a group x window, and crop the padding.

    The whole result has (I - 1) * S + K along an axis; EXPLICIT crops what is given, SAME max(K - S, 0).
    """
    size, groups, mode = call.attribute("kernel_size_nd"), call.attribute("num_groups"), call.attribute("padding_mode")
    kernel, bias = _kernel(call, [call.x.shape[1], call.attribute("num_output_maps") // groups, *size])
    dilation, stride = tuple(call.attribute("dilation_nd")), tuple(call.attribute("stride_nd"))
    whole = _DECONV[len(size)](call.x, kernel.to(call.x.dtype), stride=stride, dilation=dilation, groups=groups)
    if mode.startswith("SAME"):
        crops = [_same(max(extent - step, 0), mode) for extent, step in zip(_dilated(call), stride, strict=True)]
    else:
        crops = list(zip(call.attribute("pre_padding"), call.attribute("post_padding"), strict=True))
    result = _pad(whole, [(-before, -after) for before, after in crops])
    return result if bias is None else result + bias.reshape(1, -1, *[1] * len(size))


@replays("POOLING")
def pooling(call: LayerCall) -> torch.Tensor:
    """Take the largest or the mean of each window, or (1 - b) * largest + b * mean.

    Padding never is the largest; the mean counts it unless ``average_count_excludes_padding``, and never counts what
    ROUND_UP adds behind the padding.
    """
    window, stride = call.attribute("window_size_nd"), call.attribute("stride_nd")
    pads = _window_pads(call, window)
    given = pads
    if call.attribute("padding_mode") == "EXPLICIT_ROUND_UP":
        given = list(zip(call.attribute("pre_padding"), call.attribute("post_padding"), strict=True))
    kind = call.attribute("type")
    largest = mean = torch.zeros(())
    if kind != "AVERAGE":
        low = float("-inf") if call.x.is_floating_point() else torch.iinfo(call.x.dtype).min
        largest = _MAX_POOL[len(window)](_pad(call.x, pads, low), tuple(window), tuple(stride))
    if kind != "MAX":
        ones = torch.ones_like(call.x[:1, :1])
        counted = ones if call.attribute("average_count_excludes_padding") else _pad(ones, given, 1.0)
        rest = [
            (whole[0] - part[0], whole[1] - part[1]) if counted is not ones else whole
            for whole, part in zip(pads, given, strict=True)
        ]
        mean = _window_sum(_pad(call.x, pads), window, stride) / _window_sum(_pad(counted, rest), window, stride)
    if kind == "MAX":
        return largest
    if kind == "AVERAGE":
        return mean
    blend = float(call.attribute("blend_factor"))
    return (1 - blend) * largest + blend * mean


def _window_sum(x: torch.Tensor, window: Sequence[int], stride: Sequence[int]) -> torch.Tensor:
    """Return the sum of each window, channel by channel."""
    flat = x.reshape(-1, 1, *x.shape[2:])
    kernel = torch.ones(1, 1, *window, dtype=x.dtype)
    sums = _CONV[len(window)](flat, kernel, stride=tuple(stride))
    return sums.reshape([*x.shape[:2], *sums.shape[2:]])


@replays("LRN")
def local_response_normalisation(call: LayerCall) -> torch.Tensor:
    """x / (k + alpha / n * sum of squares of the n channels around)**beta."""
    size = call.attribute("window_size")
    squares = _pad(call.x.pow(2).movedim(1, -1), [(size // 2, size // 2)]).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    k, alpha, beta = (float(call.attribute(name)) for name in ("k", "alpha", "beta"))
    return call.x / torch.pow(k + alpha / size * squares, beta)


@replays("PADDING")
def padding(call: LayerCall) -> torch.Tensor:
    """Pad the last axes with zeros; negative numbers crop."""
    return _pad(call.x, list(zip(call.attribute("pre_padding_nd"), call.attribute("post_padding_nd"), strict=True)))
