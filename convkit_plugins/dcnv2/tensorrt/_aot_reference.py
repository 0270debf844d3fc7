"""What the plugin computes, in PyTorch: for the replay of a parsed network, and for the backend ``torch``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from convkit_plugins.dcnv2.op import compute
from convkit_plugins.dcnv2.tensorrt._aot_settings import AotSettings
from convkit_plugins.dcnv2.tensorrt._packing import unpack

__all__ = ["packed_deform_conv", "replay_aot"]


def packed_deform_conv(
    settings: AotSettings, x: Tensor, offset: Tensor, mask: Tensor, packed: Tensor, bias: Tensor
) -> Tensor:
    """Return the output [N, O, oh, ow] of the plugin, without the kernels and without what packs the weights."""
    layer = settings.layer
    return compute(
        x, unpack(packed, settings), offset, bias, mask, layer.stride, layer.padding, layer.dilation, layer.groups,
        settings.sigmoid, settings.relu,
    )  # fmt: skip


def replay_aot(inputs: Sequence[Tensor], fields: Mapping[str, Any]) -> Tensor:
    """Return the output of a plugin layer; ``fields`` are its attributes.

    Raises:
        PluginError: an attribute is missing, or no number that the plugin knows.
    """
    x, offset, mask, packed, bias = inputs
    return packed_deform_conv(AotSettings.from_fields(fields), x, offset, mask, packed, bias)
