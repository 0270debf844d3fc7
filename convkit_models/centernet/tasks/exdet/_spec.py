"""The specification of a CenterNet that finds extreme points (ExtremeNet's heads)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request, TensorSpec
from convkit.errors import CheckpointError
from convkit_models.centernet._names import INPUT, class_names
from convkit_models.centernet.networks import STRIDE, Layout
from convkit_models.centernet.tasks._shared import (
    check_channels,
    check_options,
    expected_patches,
    narrowed,
    output_maps,
    preprocess_of,
    refuse_decoding,
    refuse_form,
)

__all__ = ["DECODE", "check_heads", "describe"]

DECODE = "centernet.exdet"
SIDES = "tlbr"


def check_heads(layout: Layout, source: str) -> None:
    """Check the channels of the heads: those of the sides have all classes, or one for all of them.

    Raises:
        CheckpointError: they are not those of the task.
    """
    channels = layout.channels
    classes = channels["hm_c"]
    agnostic = channels["hm_t"] == 1
    check_channels(layout, {f"hm_{side}": 1 if agnostic else classes for side in SIDES}, source)
    found = [f"reg_{side}" for side in SIDES if f"reg_{side}" in channels]
    if found and len(found) < len(SIDES):
        raise CheckpointError(
            f"{source} has of the heads reg_t, reg_l, reg_b and reg_r only {', '.join(found)}.",
            hint="It must have all of them or none. Is the file complete?",
        )
    check_channels(layout, dict.fromkeys(found, 2), source)


def describe(request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a network in the sizes that were asked for.

    Raises:
        SettingError: the request does not go with this network.
    """
    dims = narrowed(request, layout)
    check_options(dims, options)
    refuse_form(request.form, ("heads",), "exdet")
    refuse_decoding(options, ("official", "fixed"), "exdet")
    names = class_names(layout.channels["hm_c"], request.names)
    return ModelSpec(
        variant=f"{layout.architecture}-extreme",
        dims=tuple(dims.values()),
        inputs=(TensorSpec(INPUT, ("batch", 3, "height", "width")),),
        outputs=output_maps(layout),
        preprocess=preprocess_of(options, dims, layout),
        decode={
            "kind": DECODE,
            "form": request.form,
            "heads": list(layout.channels),
            "stride": STRIDE,
            "topk": options["topk"],
            "fixed": options["decode"] == "fixed",
            "aggregate": options["aggregate"],
            "classes": list(names),
        },
        classes=names,
        info=info,
        expect=expected_patches(layout),
    )
