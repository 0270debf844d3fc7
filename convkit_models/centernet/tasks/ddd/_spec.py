"""The specification of a CenterNet that finds boxes in space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request, TensorSpec
from convkit.errors import SettingError
from convkit_models.centernet._calibration import check_calibration
from convkit_models.centernet._names import INPUT, KITTI, class_names
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

DECODE = "centernet.ddd"


def check_heads(layout: Layout, source: str) -> None:
    """Check the channels of the heads.

    Raises:
        CheckpointError: they are not those of the task.
    """
    check_channels(layout, {"dep": 1, "rot": 8, "dim": 3, "wh": 2, "reg": 2}, source)


def describe(request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a network in the sizes that were asked for.

    Raises:
        SettingError: the request does not go with this network.
    """
    dims = narrowed(request, layout)
    if options["resize"] != "fix_res":
        raise SettingError(
            f"The task ddd has no resize={options['resize']}.",
            hint="Leave it out: the whole width of an image is taken.",
        )
    check_options(dims, options)
    refuse_form(request.form, ("heads",), "ddd")
    refuse_decoding(options, ("official", "fixed"), "ddd")
    calibration = [float(number) for number in options["calibration"]]
    if problem := check_calibration(calibration):
        raise SettingError(
            f"The option 'calibration' {problem}.",
            hint="Give the 3 x 4 matrix P2 of the camera row by row: 12 numbers with commas between them.",
        )
    names = class_names(
        layout.channels["hm"], request.names or (KITTI if layout.channels["hm"] == len(KITTI) else None)
    )
    return ModelSpec(
        variant=f"{layout.architecture}-space",
        dims=tuple(dims.values()),
        inputs=(TensorSpec(INPUT, ("batch", 3, "height", "width")),),
        outputs=output_maps(layout),
        preprocess={**preprocess_of(options, dims, layout), "side": "width", "dtype": "float32"},
        decode={
            "kind": DECODE,
            "form": request.form,
            "heads": list(layout.channels),
            "stride": STRIDE,
            "topk": options["topk"],
            "fixed": options["decode"] == "fixed",
            "calibration": calibration,
            "classes": list(names),
        },
        classes=names,
        info=info,
        expect=expected_patches(layout),
    )
