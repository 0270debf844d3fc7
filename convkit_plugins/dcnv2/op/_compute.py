"""The arithmetic of the operator in plain, differentiable PyTorch operators, for every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["compute"]


def compute(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor,
    mask: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    offset_groups: int,
    sigmoid: bool = False,
    relu: bool = False,
) -> Tensor:
    """Return the convolution as `deform_conv2d` defines it; the arguments must fit each other.

    All taps are sampled into columns, which the weight then multiplies. The 16-bit types are computed in float32 and
    rounded once: in float16 a coordinate of 300 can only be a multiple of a quarter of a pixel. With ``sigmoid``,
    ``mask`` contains logits; with ``relu``, the result passes a ReLU.
    """
    dtype = x.dtype
    if dtype in (torch.float16, torch.bfloat16):
        x, weight, offset, bias, mask = (tensor.float() for tensor in (x, weight, offset, bias, mask))
    if sigmoid:
        mask = mask.sigmoid()
    batch, channels = x.shape[:2]
    filters, _, kh, kw = weight.shape
    oh, ow = offset.shape[2:]

    shifts = offset.reshape(batch, offset_groups, kh, kw, 2, oh, ow).permute(0, 5, 6, 1, 2, 3, 4)
    factors = mask.reshape(batch, offset_groups, kh, kw, oh, ow).permute(0, 4, 5, 1, 2, 3)
    at_y = shifts[..., 0] + _grid(offset, oh, stride[0], padding[0], kh, dilation[0]).view(oh, 1, 1, kh, 1)
    at_x = shifts[..., 1] + _grid(offset, ow, stride[1], padding[1], kw, dilation[1]).view(ow, 1, 1, kw)
    columns = _sample(x, at_y, at_x, factors).view(batch, oh * ow, channels * kh * kw)

    rows = weight.reshape(filters, offset_groups, channels // offset_groups, kh * kw).transpose(2, 3).flatten(1)
    output = torch.matmul(rows, columns.transpose(1, 2)) + bias[:, None]
    output = output.view(batch, filters, oh, ow).to(dtype)
    return output.relu() if relu else output


def _grid(like: Tensor, outputs: int, stride: int, padding: int, taps: int, dilation: int) -> Tensor:
    """Return where the undisplaced taps of one axis lie in the image: [outputs, taps]."""
    starts = torch.arange(outputs, device=like.device, dtype=like.dtype) * stride - padding
    return starts[:, None] + torch.arange(taps, device=like.device, dtype=like.dtype) * dilation


def _sample(image: Tensor, y: Tensor, x: Tensor, factors: Tensor) -> Tensor:
    """Return the image at every position, times its factor: [N * oh * ow * G * kh * kw, C / G].

    ``image`` is [N, C, H, W]; ``y``, ``x`` (in pixels) and ``factors`` are [N, oh, ow, G, kh, kw].
    A sample is the weighted sum of four pixels, which is what an embedding bag computes from a table whose rows are
    the pixels: it never stores the four pixels of all samples.
    """
    batch, channels, height, width = image.shape
    groups = y.shape[3]
    # The table has a frame of zeros: one pixel for the rim of the image, and one more in front so that
    # a tap outside has four zeros to point at. An infinite pixel thus never reaches a tap beside it.
    table = image.new_zeros((batch, groups, height + 3, width + 3, channels // groups))
    table[:, :, 2:-1, 2:-1] = image.reshape(batch, groups, channels // groups, height, width).permute(0, 1, 3, 4, 2)

    inside = (y > -1) & (y < height) & (x > -1) & (x < width)  # false where a position is NaN
    y, x = y.where(inside, -2.0), x.where(inside, -2.0)
    top, left = y.floor(), x.floor()
    below, right = y - top, x - left

    plane = torch.arange(batch * groups, device=image.device).view(batch, 1, 1, groups, 1, 1)
    corner = (plane * (height + 3) + top.long() + 2) * (width + 3) + left.long() + 2
    corners = torch.stack((corner, corner + 1, corner + width + 3, corner + width + 4), -1)
    upper, lower = factors * (1 - below), factors * below
    weights = torch.stack((upper * (1 - right), upper * right, lower * (1 - right), lower * right), -1)
    return F.embedding_bag(
        corners.flatten(0, -2), table.flatten(0, -2), per_sample_weights=weights.flatten(0, -2), mode="sum"
    )
