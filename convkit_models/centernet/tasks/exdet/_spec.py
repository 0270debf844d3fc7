"""The specification of a CenterNet that finds extreme points (ExtremeNet's heads)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request
from convkit.errors import CheckpointError, SettingError
from convkit_models.centernet._names import class_names
from convkit_models.centernet.networks import Layout
from convkit_models.centernet.tasks._shared import check_channels, checked_dims, model_spec

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
    dims = checked_dims(request, layout, options, "exdet")
    if not 0 <= options["aggregate"] <= 1:
        raise SettingError(
            f"Option 'aggregate' cannot be {options['aggregate']}.",
            hint="Give a number from 0 to 1; ExtremeNet has 0.1.",
        )
    names = class_names(layout.channels["hm_c"], request.names)
    decode = {
        "kind": DECODE,
        "heads": list(layout.channels),
        "fixed": options["decode"] == "fixed",
        "aggregate": options["aggregate"],
        "classes": list(names),
    }
    return model_spec(request, layout, options, info, dims, decode, names=names, suffix="-extreme")
