"""The layer behind its offset convolution in one call, and the split of the output of that convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from convkit_plugins.dcnv2.op._op import pair

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
    """Return the convolution of ``x`` whose taps are displaced and weighted by ``raw``.

    The result is that of `deform_conv2d` on both parts of ``raw``, with a sigmoid on the second. On a GPU one kernel
    computes all of it. Graphs for ONNX are exported with `deform_conv2d` instead.

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
    if raw.dim() != 4 or raw.shape[1] % 3:
        raise ValueError(f"dcnv2 needs raw [N, 3 * G * kh * kw, oh, ow]; got {list(raw.shape)}")
    offset, logits = _split(raw)
    settings = (pair(stride), pair(padding), pair(dilation), deformable_groups, True, relu)
    output: Tensor = torch.ops.convkit.deform_conv2d(x, weight, offset, bias, logits, *settings)
    return output


def split_offset_mask(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return (offset, mask) from the output of ``conv_offset_mask``: the mask through a sigmoid.

    The official code divides the channels into three parts and joins the first two again, which gives the same.
    """
    offset, logits = _split(raw)
    return offset, torch.sigmoid(logits)


def _split(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first two thirds of the channels and the last third."""
    taps = raw.shape[1] // 3
    return raw[:, : 2 * taps], raw[:, 2 * taps :]
