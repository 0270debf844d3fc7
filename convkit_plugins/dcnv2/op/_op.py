"""The operator: modulated deformable convolution as ``torch.ops.convkit.deform_conv2d``.

Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results" (CVPR 2019, arXiv 1811.11168); the
numbers are those of ONNX ``DeformConv`` (opset 19) with a mask and ``group=1``. Output channel o at
(y, x) is::

    bias[o] + sum over channel c, tap (i, j) of  weight[o, c, i, j] * mask[t, y, x] * sample(c, py, px)

    py = y * stride - padding + i * dilation + offset[2 * t, y, x]
    px = x * stride - padding + j * dilation + offset[2 * t + 1, y, x]
    t = g * kh * kw + i * kw + j,  where g is the offset group of channel c

``sample`` interpolates bilinearly in an image that is zero outside. A tap whose position is NaN or a whole pixel or
more outside contributes 0.

The custom operator has two flags more: ``sigmoid`` (``mask`` contains logits) and ``relu`` (of the result), so that a
GPU computes a whole layer in one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convkit_plugins.dcnv2.cuda import convolve, empty_output, memory_format
from convkit_plugins.dcnv2.op._compute import compute
from convkit_plugins.dcnv2.op._dispatch import autocast_on_cuda, layer_of, on_kernels, register_backward

__all__ = ["check", "deform_conv2d", "output_size", "pair"]

NAME = "convkit::deform_conv2d"
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def deform_conv2d(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    offset_groups: int = 1,
) -> Tensor:
    """Convolve ``x`` with kernels whose taps are displaced and weighted anew at every output position.

    All tensors have one dtype: float64, float32, float16 or bfloat16. The 16-bit types are computed in float32,
    coordinates included, and rounded once at the end. On a GPU one CUDA kernel computes it, except in float64 (the
    module ``cuda._cuda`` says which kernel, and what it rounds to 16 bits). Under autocast everything is float32 on the
    CPU, and of the autocast dtype on a GPU. The operator is differentiable once, in all five tensors; the backward pass
    always uses the differentiable computation in PyTorch.

    Args:
        x: [N, C, H, W].
        weight: [O, C, kh, kw].
        offset: [N, 2 G kh kw, oh, ow] in pixels of ``x``: groups outermost, taps row by row, (y, x) interleaved.
        bias: [O], or None for none.
        mask: [N, G kh kw, oh, ow], the factor of each tap (already through a sigmoid), or None for ones.
        stride: one number or (vertical, horizontal), like ``padding`` and ``dilation``.
        padding: how many zero pixels surround ``x`` on each side.
        dilation: the distance of the undisplaced taps.
        offset_groups: G, the number of channel groups of ``x`` with offsets of their own.

    Returns:
        [N, O, oh, ow], contiguous; on a GPU channels-last if ``x`` is.

    Raises:
        ValueError: shapes, dtypes or settings do not fit each other.
    """
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    if mask is None:
        mask = offset.new_ones((offset.shape[0], offset.shape[1] // 2, *offset.shape[2:]))
    output: Tensor = torch.ops.convkit.deform_conv2d(
        x, weight, offset, bias, mask, pair(stride), pair(padding), pair(dilation), offset_groups, False, False
    )
    return output


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (vertical, horizontal) for one number or a sequence of two."""
    if isinstance(value, int):
        return value, value
    vertical, horizontal = value
    return vertical, horizontal


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the length of an output axis, as for an ordinary convolution."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


# What torch.library.custom_op makes of a function imports the whole compiler when it is first called: a second.
torch.library.define(
    NAME,
    "(Tensor x, Tensor weight, Tensor offset, Tensor bias, Tensor mask, SymInt[] stride, SymInt[] padding,"
    " SymInt[] dilation, SymInt offset_groups, bool sigmoid, bool relu) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)


@torch.library.impl(NAME, "default")
def _everywhere(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor,
    mask: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    offset_groups: int,
    sigmoid: bool,
    relu: bool,
) -> Tensor:
    settings = (stride, padding, dilation, offset_groups)
    check(x, weight, offset, bias, mask, *settings)
    return compute(x, weight, offset, bias, mask, *settings, sigmoid, relu)


@torch.library.register_fake(NAME)  # type: ignore[untyped-decorator]
def _fake(x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, *settings: Any) -> Tensor:
    size = check(x, weight, offset, bias, mask, *settings[:4])
    return empty_output(x, weight.shape[0], size)


@torch.library.impl(NAME, "cuda")
def _on_cuda(x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, *settings: Any) -> Tensor:
    check(x, weight, offset, bias, mask, *settings[:4])
    if not on_kernels(x):
        return compute(x, weight, offset, bias, mask, *settings).contiguous(memory_format=memory_format(x))
    sigmoid, relu = settings[4:]
    return convolve(x, weight, offset, bias, mask, layer_of(weight, *settings[:4]), sigmoid=sigmoid, relu=relu)


register_backward(NAME, compute, 5)
torch.library.register_autocast(NAME, "cpu", torch.float32)
autocast_on_cuda("deform_conv2d", torch.ops.convkit.deform_conv2d)


def check(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor,
    mask: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    offset_groups: int,
) -> tuple[int, int]:
    """Return (oh, ow) for the arguments of `deform_conv2d`, or raise a ValueError that says what does not fit."""
    if x.dim() != 4 or weight.dim() != 4:
        raise ValueError(
            f"deform_conv2d needs x [N, C, H, W] and weight [O, C, kh, kw]; got {_show(x)} and {_show(weight)}"
        )
    if x.dtype not in _DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise ValueError(f"deform_conv2d computes in {names}; x is {x.dtype}")
    for name, tensor in (("weight", weight), ("offset", offset), ("bias", bias), ("mask", mask)):
        if tensor.dtype != x.dtype:
            raise ValueError(f"deform_conv2d needs one dtype for all tensors; x is {x.dtype}, {name} is {tensor.dtype}")
    for name, values, least in (("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)):
        if len(values) != 2 or min(values) < least:
            raise ValueError(f"deform_conv2d needs two numbers of at least {least} as {name}; got {list(values)}")
    batch, channels, height, width = x.shape
    filters, _, kh, kw = weight.shape
    if offset_groups < 1 or channels % offset_groups:
        raise ValueError(f"deform_conv2d cannot divide {channels} channels into {offset_groups} offset groups")
    oh = output_size(height, kh, stride[0], padding[0], dilation[0])
    ow = output_size(width, kw, stride[1], padding[1], dilation[1])
    if any(isinstance(size, int) and size < 1 for size in (oh, ow)):
        raise ValueError(
            f"deform_conv2d has no output: x {_show(x)} is smaller than the kernel of weight {_show(weight)}"
        )
    taps = offset_groups * kh * kw
    for name, tensor, expected, meaning in (
        ("weight", weight, (filters, channels, kh, kw), "[O, C, kh, kw] with the channels of x"),
        ("bias", bias, (filters,), "[O]"),
        ("offset", offset, (batch, 2 * taps, oh, ow), "[N, 2 * offset_groups * kh * kw, oh, ow]"),
        ("mask", mask, (batch, taps, oh, ow), "[N, offset_groups * kh * kw, oh, ow]"),
    ):
        if tensor.dim() != len(expected) or any(map(_differ, tensor.shape, expected)):
            raise ValueError(f"deform_conv2d needs {name} of shape {list(expected)}, {meaning}; got {_show(tensor)}")
    return oh, ow


def _differ(size: int, expected: int) -> bool:
    """Return whether two sizes differ. A symbolic size counts as equal here and is checked when the operator runs.

    Comparing it would specialise an exported graph to the size of the example.
    """
    return isinstance(size, int) and isinstance(expected, int) and size != expected


def _show(tensor: Tensor) -> str:
    return str(list(tensor.shape))
