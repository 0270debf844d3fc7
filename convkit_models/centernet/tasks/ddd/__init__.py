"""Boxes in space from one image, as in CenterNet: specification and decode on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.tasks.ddd._decode import SpaceDecode
from convkit_models.centernet.tasks.ddd._spec import DECODE, check_heads, describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from convkit import Decode, ModulePatch

__all__ = ["DECODE", "SpaceDecode", "check_heads", "describe", "make_decode", "output_patch", "reference"]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Return the decode of a specification."""
    return SpaceDecode(spec)


def reference(spec: Mapping[str, Any]) -> Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]:
    """Return what runs the untouched network and returns its maps."""
    from convkit_models.centernet.tasks._heads_only import heads_reference

    return heads_reference(spec["heads"])


def output_patch(spec: Mapping[str, Any]) -> ModulePatch:
    """Return the patch that makes the network return its maps as a tuple."""
    from convkit_models.centernet.tasks._heads_only import heads_patch

    return heads_patch(spec["heads"])
