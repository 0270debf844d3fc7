"""The specification of a network of CenterTrack or FairMOT: tensors in, raw maps out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request, TensorSpec
from convkit.errors import SettingError
from convkit_models.centernet._names import INPUT, PRE_HM, PRE_IMAGES, class_names
from convkit_models.centernet.networks import Layout
from convkit_models.centernet.tasks._shared import (
    check_channels,
    checked_dims,
    expected_patches,
    output_maps,
    preprocess_of,
)

__all__ = ["check_heads", "describe"]

CHANNELS = {INPUT: 3, PRE_IMAGES: 3, PRE_HM: 1}


def check_heads(layout: Layout, source: str) -> None:
    """Check the channels of the heads that have a fixed number.

    Raises:
        CheckpointError: one has another.
    """
    check_channels(layout, {"reg": 2, "tracking": 2, "ltrb": 4, "ltrb_amodal": 4, "amodel_offset": 2}, source)


def describe(request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a network in the sizes that were asked for.

    A network that takes the previous image has no preprocess: a raw input is its arrays by name. What is not decoded is
    in the notes.

    Raises:
        SettingError: the request does not go with this network.
    """
    dims = checked_dims(request, layout, options, "tracking", decodings=("official",))
    alone = layout.inputs == (INPUT,)
    if not alone and options["resize"] == "keep_res":
        raise SettingError(
            "A network that takes the previous image has no preprocess, so nothing is resized.",
            hint="Leave --set resize out; give ranges with --shape.",
        )
    names = class_names(layout.channels["hm"], request.names) if "hm" in layout.channels else ()
    note = f"the maps {', '.join(layout.channels)} are returned as they are: nothing decodes them or tracks"
    if not alone:
        note += f"; inputs are the arrays {', '.join(layout.inputs)}, normalised"
    info = {**info, "notes": [*info["notes"], note]}
    return ModelSpec(
        variant=f"{layout.architecture}-track",
        dims=tuple(dims.values()),
        inputs=tuple(TensorSpec(name, ("batch", CHANNELS[name], "height", "width")) for name in layout.inputs),
        outputs=output_maps(layout),
        preprocess=preprocess_of(options, dims, layout) if alone else {},
        decode={},
        classes=names,
        info=info,
        expect=expected_patches(layout),
    )
