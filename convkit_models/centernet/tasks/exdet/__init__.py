"""Boxes from extreme points, as in CenterNet: specification and decode on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.tasks._forms import output_patch, reference
from convkit_models.centernet.tasks._soft_nms import soft_nms
from convkit_models.centernet.tasks.exdet._decode import ExtremeDecode
from convkit_models.centernet.tasks.exdet._spec import DECODE, check_heads, describe

if TYPE_CHECKING:
    from convkit import Decode

__all__ = ["DECODE", "ExtremeDecode", "check_heads", "describe", "make_decode", "output_patch", "reference", "soft_nms"]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Return the decode of a specification."""
    return ExtremeDecode(spec)
