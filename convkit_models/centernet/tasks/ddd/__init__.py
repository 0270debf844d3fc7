"""Boxes in space from one image, as in CenterNet: specification and decode on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.tasks._forms import output_patch, reference
from convkit_models.centernet.tasks.ddd._decode import SpaceDecode
from convkit_models.centernet.tasks.ddd._spec import DECODE, check_heads, describe

if TYPE_CHECKING:
    from convkit import Decode

__all__ = ["DECODE", "SpaceDecode", "check_heads", "describe", "make_decode", "output_patch", "reference"]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Return the decode of a specification."""
    return SpaceDecode(spec)
