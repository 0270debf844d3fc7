"""The layer: a drop-in for the ``DCN`` of CenterNet and of the DCNv2 extensions, with no extension."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn

from convkit_plugins.dcnv2.op._layer_op import dcnv2, split_offset_mask
from convkit_plugins.dcnv2.op._op import deform_conv2d, pair

__all__ = ["DCN"]


class DCN(nn.Module):
    """Deformable convolution v2 that predicts its own offsets and mask from its input.

    Parameters have the names, shapes and initial values of the official layer, so that its
    checkpoints load: ``weight`` [out, in, kh, kw], ``bias`` [out] and ``conv_offset_mask``, an
    ordinary convolution to 3 * deformable_groups * kh * kw channels that starts at zero (no
    displacement, every tap counts half). It runs in training as in inference, on any device.

    ``conv_offset_mask`` shares the dilation, which the official one lacks: without it, offsets and
    output differ in size. Where ``dilation`` is 1, as in every CenterNet, there is no difference.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        deformable_groups: int = 1,
    ) -> None:
        super().__init__()
        if deformable_groups < 1 or in_channels % deformable_groups:
            raise ValueError(f"DCN cannot divide {in_channels} channels into {deformable_groups} deformable groups")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = pair(kernel_size)
        self.stride = pair(stride)
        self.padding = pair(padding)
        self.dilation = pair(dilation)
        self.deformable_groups = deformable_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self.conv_offset_mask = nn.Conv2d(
            in_channels,
            3 * deformable_groups * prod(self.kernel_size),
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the official initial values: ``weight`` uniform within 1 / sqrt(in * kh * kw), all else zero."""
        bound = 1 / sqrt(self.in_channels * prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)
        nn.init.zeros_(self.conv_offset_mask.weight)
        if self.conv_offset_mask.bias is not None:
            nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, out, oh, ow] for x [N, in, H, W].

        On a GPU one kernel takes the raw output of ``conv_offset_mask``. On the CPU and in exported graphs the sigmoid
        and the operator are separate steps, each of which has an ONNX counterpart.
        """
        raw = self.conv_offset_mask(x)
        settings = (self.stride, self.padding, self.dilation, self.deformable_groups)
        if x.is_cuda and not torch.compiler.is_exporting():
            return dcnv2(x, raw, self.weight, self.bias, *settings)
        offset, mask = split_offset_mask(raw)
        return deform_conv2d(x, self.weight, offset, self.bias, mask, *settings)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride},"
            f" padding={self.padding}, dilation={self.dilation}, deformable_groups={self.deformable_groups}"
        )
