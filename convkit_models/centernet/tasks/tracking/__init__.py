"""Networks of CenterNet's relatives that track, CenterTrack and FairMOT: their maps, without a decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convkit.errors import ConversionError
from convkit_models.centernet.tasks._forms import output_patch, reference
from convkit_models.centernet.tasks.tracking._samples import tensors
from convkit_models.centernet.tasks.tracking._spec import check_heads, describe

if TYPE_CHECKING:
    from convkit import Decode

__all__ = ["check_heads", "describe", "make_decode", "output_patch", "reference", "tensors"]


def make_decode(spec: Mapping[str, Any]) -> Decode:
    """Refuse: the maps of these networks are for a tracker, which is not here.

    Raises:
        ConversionError: always.
    """
    del spec
    raise ConversionError("The task tracking has no decode.", hint="Use the outputs: `convkit run --npz DIR`.")
