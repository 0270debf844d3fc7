"""What outlives the checkpoint: the specification of a CenterNet that was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import Dim, ModelSpec, Request, TensorSpec
from convkit.errors import CheckpointError, SettingError
from convkit_models.centernet._names import class_names
from convkit_models.centernet.networks import Layout
from convkit_models.centernet.tasks._shared import (
    CELLS,
    OUTPUT_PATCH,
    PIXELS,
    PREPROCESS,
    THRESHOLDS,
    check_channels,
    check_room_for,
    checked_dims,
    model_spec,
)

__all__ = ["DECODE", "OUTPUT_PATCH", "PREPROCESS", "check_heads", "describe"]

DECODE = "centernet.ctdet"
FORMS = ("heads", "tensorrt-pro", "detections")


def check_heads(layout: Layout, source: str) -> None:
    """Check the channels of the heads.

    Raises:
        CheckpointError: they are not those of the task.
    """
    classes, sizes = layout.channels["hm"], layout.channels["wh"]
    if sizes not in (2, 2 * classes):
        raise CheckpointError(
            f"{source} has a head wh of {sizes} channels, with {classes} classes.",
            hint=f"It must have 2, or {2 * classes} where training used --cat_spec_wh.",
        )
    check_channels(layout, {"reg": 2}, source)


def describe(request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a network in the form and sizes that were asked for.

    Raises:
        SettingError: the request does not go with this network.
    """
    dims = checked_dims(request, layout, options, "ctdet", forms=FORMS, decodings=("official", "tensorrt-pro"))
    classes = layout.channels["hm"]
    sizes_per_class = layout.channels["wh"] != 2
    _check(request.form, dims, options, sizes_per_class)
    names = class_names(classes, request.names)
    decode = {"kind": DECODE, "sizes_per_class": sizes_per_class, "classes": list(names), **_mode(options)}
    outputs = _outputs(request.form, layout, options["topk"])
    return model_spec(request, layout, options, info, dims, decode, names=names, outputs=outputs)


def _mode(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the decode specification holds besides, for another decoding than the official one."""
    if options["decode"] == "official":
        return {}
    return {"mode": options["decode"], "confidence": options["confidence"], "nms": options["nms"]}


def _check(form: str, dims: Mapping[str, Dim], options: Mapping[str, Any], sizes_per_class: bool) -> None:
    if options["decode"] != "official":
        if form == "detections":
            raise SettingError(
                f"The form 'detections' holds boxes that the official decoding chose; {options['decode']} cannot.",
                hint="Use --form heads or --form tensorrt-pro.",
            )
        for name in THRESHOLDS:
            if not 0 < options[name] < 1:
                raise SettingError(f"Option {name!r} cannot be {options[name]}.", hint="Give a number between 0 and 1.")
    if form == "tensorrt-pro" and sizes_per_class:
        raise SettingError(
            "This network predicts a size for each class (--cat_spec_wh); form 'tensorrt-pro' has no room for that.",
            hint="Use --form heads or --form detections.",
        )
    if form == "detections":
        check_room_for(options["topk"], dims, "detections")


def _outputs(form: str, layout: Layout, topk: int) -> tuple[TensorSpec, ...]:
    """Return the outputs of a form, none for the raw maps."""
    if form == "detections":
        return (TensorSpec("detections", ("batch", topk, 6), compare="results", tolerance=PIXELS),)
    if form == "tensorrt-pro":
        columns = 4 + 2 * layout.channels["hm"]
        return (TensorSpec("output", ("batch", "height/4*width/4", columns), tolerance=CELLS),)
    return ()
