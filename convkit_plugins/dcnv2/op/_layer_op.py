"""The whole layer behind its offset convolution as one operator, ``torch.ops.convkit.dcnv2``.

It takes the raw output of ``conv_offset_mask`` and applies the sigmoid to the mask itself, so that a GPU reads every
tensor once. Its result is that of `deform_conv2d`, which is what graphs are exported with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convkit_plugins.dcnv2.cuda import empty_output, memory_format
from convkit_plugins.dcnv2.op._compute import compute
from convkit_plugins.dcnv2.op._dispatch import autocast_on_cuda, layer_of, on_kernels, register_backward
from convkit_plugins.dcnv2.op._op import check, pair

__all__ = ["dcnv2", "split_offset_mask"]


def dcnv2(
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    deformable_groups: int = 1,
    relu: bool = False,
) -> Tensor:
    """Convolve ``x`` with kernels whose taps are displaced and weighted as ``raw`` says.

    Args:
        x: [N, C, H, W].
        raw: [N, 3 G kh kw, oh, ow]: displacements as in `deform_conv2d`, then the logits of the masks.
        weight: [O, C, kh, kw].
        bias: [O].
        stride: one number or (vertical, horizontal), like ``padding`` and ``dilation``.
        padding: how many zero pixels surround ``x`` on each side.
        dilation: the distance of the undisplaced taps.
        deformable_groups: G, the number of channel groups of ``x`` with displacements of their own.
        relu: whether the result passes a ReLU.

    Returns:
        [N, O, oh, ow], contiguous; on a GPU channels-last if ``x`` is.

    Raises:
        ValueError: shapes, dtypes or settings do not fit each other.
    """
    output: Tensor = torch.ops.convkit.dcnv2(
        x, raw, weight, bias, pair(stride), pair(padding), pair(dilation), deformable_groups, relu
    )
    return output


def split_offset_mask(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return (offset, mask) from the output of ``conv_offset_mask``: two thirds as they are, one through a sigmoid.

    The official code cuts the channels in three and joins the first two again, which changes nothing.
    """
    taps = raw.shape[1] // 3
    return raw[:, : 2 * taps], torch.sigmoid(raw[:, 2 * taps :])


def _plainly(x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, *settings: Any) -> Tensor:
    """Return the result by differentiable operators; sigmoid and all in float32 for the 16-bit types."""
    stride, padding, dilation, groups, relu = settings
    dtype = torch.float32 if raw.dtype in (torch.float16, torch.bfloat16) else raw.dtype
    offset, mask = split_offset_mask(raw.to(dtype))
    wide = x.to(dtype), weight.to(dtype), offset, bias.to(dtype), mask
    output = compute(*wide, stride, padding, dilation, groups).to(x.dtype)
    return output.relu() if relu else output


def _checked(x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, *settings: Any) -> tuple[int, int]:
    if raw.dim() != 4 or raw.shape[1] % 3:
        raise ValueError(f"dcnv2 needs raw [N, 3 * G * kh * kw, oh, ow]; got {list(raw.shape)}")
    taps = raw.shape[1] // 3
    return check(x, weight, raw[:, : 2 * taps], bias, raw[:, 2 * taps :], *settings[:-1])


@torch.library.custom_op("convkit::dcnv2", mutates_args=())
def _operator(
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    deformable_groups: int,
    relu: bool,
) -> Tensor:
    settings = (stride, padding, dilation, deformable_groups, relu)
    _checked(x, raw, weight, bias, *settings)
    return _plainly(x, raw, weight, bias, *settings).contiguous()


@_operator.register_fake
def _fake(
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    deformable_groups: int,
    relu: bool,
) -> Tensor:
    size = _checked(x, raw, weight, bias, stride, padding, dilation, deformable_groups, relu)
    return empty_output(x, weight.shape[0], size)


@_operator.register_kernel("cuda")
def _on_cuda(
    x: Tensor,
    raw: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    deformable_groups: int,
    relu: bool,
) -> Tensor:
    settings = (stride, padding, dilation, deformable_groups, relu)
    _checked(x, raw, weight, bias, *settings)
    if not on_kernels(x):
        return _plainly(x, raw, weight, bias, *settings).contiguous(memory_format=memory_format(x))
    from convkit_plugins.dcnv2.cuda import convolve

    taps = raw.shape[1] // 3
    layer = layer_of(weight, stride, padding, dilation, deformable_groups)
    return convolve(x, weight, raw[:, : 2 * taps], bias, raw[:, 2 * taps :], layer, sigmoid=True, relu=relu)


register_backward(_operator, _plainly, 4)
_operator.register_autocast("cpu", torch.float32)
autocast_on_cuda("dcnv2", torch.ops.convkit.dcnv2)
