"""Boxes from extreme points, as in CenterNet: specification and decode on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.tasks._soft_nms import soft_nms
from convkit_models.centernet.tasks.exdet._decode import ExtremeDecode
from convkit_models.centernet.tasks.exdet._spec import DECODE, check_heads, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from convkit import Decode, ModulePatch

__all__ = ["DECODE", "ExtremeDecode", "check_heads", "describe", "make_decode", "output_patch", "reference", "soft_nms"]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Return the decode of a specification."""
    return ExtremeDecode(spec)


def reference(spec: Mapping[str, Any]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and returns its maps."""
    from convkit_models.centernet.tasks._heads_only import heads_reference

    return heads_reference(spec["heads"])


def output_patch(spec: Mapping[str, Any]) -> ModulePatch:
    """Return the patch that makes the network return its maps as a tuple."""
    from convkit_models.centernet.tasks._heads_only import heads_patch

    return heads_patch(spec["heads"])
