"""The kernels of `_kernels` on torch tensors: 16-bit, channels-last, on a GPU that has the tensor cores for them.

A function here computes on the current stream, and returns None where a tensor is of another kind than its kernel
takes: the caller then uses PyTorch's operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from convkit.backends.torch._kernels import (
    BIAS,
    DEPTHWISE_TRANSPOSED,
    FEW_FILTERS,
    MAX_POOL,
    FirstLayer,
    first_layer_variant,
)
from convkit.cuda import load

__all__ = [
    "MOST_FEW",
    "add_bias",
    "depthwise_transposed",
    "few_filters",
    "first_layer",
    "has_kernels",
    "max_pool",
    "pack_first_layer",
]

MOST_FEW = 8
"""The most filters of `few_filters`."""
_HALF = (torch.float16, torch.bfloat16)
_PIECE = 8
"""Values that a thread reads at a time."""
_first_layer_variant = lru_cache(maxsize=64)(first_layer_variant)
_max_pool_variant = lru_cache(maxsize=64)(MAX_POOL.variant)
_bias_variant = lru_cache(maxsize=256)(BIAS.variant)
_transposed_variant = lru_cache(maxsize=64)(DEPTHWISE_TRANSPOSED.variant)
_few_variant = lru_cache(maxsize=64)(FEW_FILTERS.variant)


@lru_cache(maxsize=8)
def has_kernels(device: torch.device) -> bool:
    """Return whether kernels run on a device: a GPU of compute capability 8.0 or newer, and cupy is installed."""
    return (
        device.type == "cuda" and find_spec("cupy") is not None and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def first_layer(layer: FirstLayer, x: Tensor, packed: Tensor, bias: Tensor) -> Tensor | None:
    """Return the first convolution of ``x`` [N, C, H, W] with bias, ReLU and the pooling that ``layer`` may have.

    ``packed`` is made by `pack_first_layer`.
    """
    if not _fits(x, x.shape[1]) or x.shape[1] != layer.channels:
        return None
    batch, _, height, width = x.shape
    inner = [(size + 2 * layer.padding - layer.kernel) // layer.stride + 1 for size in (height, width)]
    outer = [(size + 2 - 3) // 2 + 1 for size in inner] if layer.pool else inner
    if min(inner) < 1 or min(outer) < 1:
        return None
    out = _empty(x, layer.filters, outer)
    launcher = load(
        _first_layer_variant(layer, _name(x), pairs=width * layer.channels % 2 == 0 and x.data_ptr() % 4 == 0)
    )
    config = launcher.launch_config(
        batch=batch, out_height=outer[0], out_width=outer[1], multiprocessors=_multiprocessors(x.device)
    )
    launcher(config, x, packed, bias, out, batch, height, width, *inner, *outer)
    return out


def pack_first_layer(layer: FirstLayer, weight: Tensor) -> Tensor:
    """Return ``weight`` [N, C, k, k] in the order in which lanes read it: flat.

    Rows of the kernel are runs of `FirstLayer.run` words behind `FirstLayer.lead`, padded to whole products. Per
    block of filters, product and 16 filters, lane 4 g + q has words q and q + 4 of filters g and g + 8.
    """
    rows = weight.new_zeros((layer.filters, layer.kernel, layer.kernel, layer.pixel))
    rows[..., : layer.channels] = weight.permute(0, 2, 3, 1)
    runs = weight.new_zeros((layer.filters, layer.kernel, 2 * layer.run))
    runs[..., layer.lead : layer.lead + layer.kernel * layer.pixel] = rows.flatten(2)
    values = weight.new_zeros((layer.filters, layer.steps * 16))
    values[:, : layer.kernel * 2 * layer.run] = runs.flatten(1)
    size = layer.filters_of_block
    # [block, 16 filters, half of them, g, step, half of the words, q, value]
    words = values.view(layer.filters // size, size // 16, 2, 8, layer.steps, 2, 4, 2)
    return words.permute(0, 4, 1, 3, 6, 2, 5, 7).contiguous().flatten()


def add_bias(x: Tensor, bias: Tensor, *, relu: bool) -> Tensor | None:
    """Return ``x`` [N, C, H, W] after adding ``bias`` [C] in place, and applying a ReLU if told so."""
    channels = x.shape[1]
    if not _fits(x, channels) or channels % _PIECE or x.data_ptr() % 16:
        return None
    launcher = load(_bias_variant(T=_name(x), CHANNELS=channels, RELU=relu))
    pieces = x.numel() // _PIECE
    launcher(launcher.launch_config(pieces=pieces, multiprocessors=_multiprocessors(x.device)), x, bias, pieces)
    return x


def max_pool(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor | None:
    """Return the max pooling of ``x`` [N, C, H, W], rounded down; pairs are (vertical, horizontal)."""
    _, channels, height, width = x.shape
    if not _fits(x, channels) or channels % _PIECE or x.data_ptr() % 16:
        return None
    size = [
        (length + 2 * pad - step * (taps - 1) - 1) // jump + 1
        for length, pad, step, taps, jump in zip((height, width), padding, dilation, kernel, stride, strict=True)
    ]
    if min(size) < 1:
        return None
    out = _empty(x, channels, size)
    launcher = load(
        _max_pool_variant(
            T=_name(x), KERNEL_Y=kernel[0], KERNEL_X=kernel[1], STRIDE_Y=stride[0], STRIDE_X=stride[1],
            PAD_Y=padding[0], PAD_X=padding[1], DILATION_Y=dilation[0], DILATION_X=dilation[1],
        )
    )  # fmt: skip
    pieces = out.numel() // _PIECE
    config = launcher.launch_config(pieces=pieces, multiprocessors=_multiprocessors(x.device))
    launcher(config, x, out, pieces, height, width, channels, *size)
    return out


def depthwise_transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int], *, relu: bool
) -> Tensor | None:
    """Return the transposed convolution of ``x`` [N, C, H, W] with ``weight`` [kh, kw, C]; ``bias`` [C].

    Pairs are (vertical, horizontal).
    """
    kernel, channels = weight.shape[:2], weight.shape[2]
    if x.shape[1] != channels or not _fits(x, channels) or channels % _PIECE or x.data_ptr() % 16:
        return None
    size = [
        (length - 1) * step - 2 * pad + taps
        for length, step, pad, taps in zip(x.shape[2:], stride, padding, kernel, strict=True)
    ]
    if min(size) < 1:
        return None
    out = _empty(x, channels, size)
    launcher = load(
        _transposed_variant(
            T=_name(x), CHANNELS=channels, KERNEL_Y=kernel[0], KERNEL_X=kernel[1], STRIDE_Y=stride[0],
            STRIDE_X=stride[1], PAD_Y=padding[0], PAD_X=padding[1], BIAS=bias is not None, RELU=relu,
        )
    )  # fmt: skip
    pieces = out.numel() // _PIECE
    config = launcher.launch_config(pieces=pieces, multiprocessors=_multiprocessors(x.device))
    launcher(config, x, weight, weight if bias is None else bias, out, pieces, *x.shape[2:], *size)
    return out


def few_filters(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """Return the convolution of ``x`` [N, C, H, W] with ``weight`` [O, C, 1, 1], O up to `MOST_FEW`; ``bias`` [O].

    ``x`` may be some of the channels of a tensor.
    """
    batch, channels, height, width = x.shape
    pitch = pixel_pitch(x)
    if pitch is None or channels % _PIECE or pitch % _PIECE or x.data_ptr() % 16 or not x.numel():
        return None
    launcher = load(_few_variant(T=_name(x), CHANNELS=channels, FILTERS=len(weight)))
    out = _empty(x, len(weight), (height, width))
    pixels = batch * height * width
    config = launcher.launch_config(pixels=pixels, multiprocessors=_multiprocessors(x.device))
    launcher(config, x, weight, bias, out, pixels, pitch)
    return out


def pixel_pitch(x: Tensor) -> int | None:
    """Return the values between pixels of a 16-bit tensor whose channels are neighbours; None for another layout."""
    image, channel, row, pixel = x.stride()
    _, _, height, width = x.shape
    regular = channel == 1 and row == width * pixel and (image == height * row or x.shape[0] == 1)
    return pixel if regular and x.is_cuda and x.dtype in _HALF else None


def _fits(x: Tensor, channels: int) -> bool:
    """Return whether a tensor is dense and channels-last, 16-bit, on a GPU, and not empty."""
    return x.dim() == 4 and x.numel() > 0 and (pixel_pitch(x) == channels)


def _empty(x: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


@lru_cache(maxsize=8)
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
