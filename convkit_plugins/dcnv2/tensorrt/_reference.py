"""What the plugin computes, in PyTorch: the replay of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from convkit_plugins.dcnv2.op import compute
from convkit_plugins.dcnv2.tensorrt._settings import Settings

__all__ = ["deform_conv"]


def deform_conv(inputs: Sequence[Tensor], fields: Mapping[str, Sequence[int]]) -> Tensor:
    """Return the output of a layer: the definition in plain PyTorch, without the kernels.

    Args:
        inputs: x [N, C, H, W], weight [O, C, kh, kw], offset [N, 2 G kh kw, oh, ow], and perhaps bias [O] and mask
            [N, G kh kw, oh, ow], all float32 or all float64.
        fields: what the plugin serialises.

    Raises:
        PluginError: fields or shapes are none of a deformable convolution.
    """
    settings = Settings.from_fields(fields)
    settings.check([tuple(tensor.shape) for tensor in inputs])
    x, weight, offset, *more = inputs
    bias = more[0] if more else weight.new_zeros(weight.shape[0])
    mask = more[1] if len(more) > 1 else offset.new_ones((1, 1, 1, 1)).expand_as(offset[:, ::2])
    return compute(
        x, weight, offset, bias, mask, settings.stride, settings.pads[:2], settings.dilation, settings.groups
    )
