"""The specification of a CenterNet that finds boxes in space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request
from convkit.errors import SettingError
from convkit_models.centernet._calibration import check_calibration
from convkit_models.centernet._names import KITTI, class_names
from convkit_models.centernet.networks import Layout
from convkit_models.centernet.tasks._shared import check_channels, checked_dims, model_spec

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
    if options["resize"] != "fix_res":
        raise SettingError(
            f"The task ddd has no resize={options['resize']}.",
            hint="Leave it out: the whole width of an image is taken.",
        )
    dims = checked_dims(request, layout, options, "ddd")
    calibration = [float(number) for number in options["calibration"]]
    if problem := check_calibration(calibration):
        raise SettingError(
            f"The option 'calibration' {problem}.",
            hint="Give the 3 x 4 matrix P2 of the camera row by row: 12 numbers with commas between them.",
        )
    names = class_names(
        layout.channels["hm"], request.names or (KITTI if layout.channels["hm"] == len(KITTI) else None)
    )
    decode = {
        "kind": DECODE,
        "heads": list(layout.channels),
        "fixed": options["decode"] == "fixed",
        "calibration": calibration,
        "classes": list(names),
    }
    preprocess = {"side": "width", "dtype": "float32"}
    return model_spec(request, layout, options, info, dims, decode, names=names, suffix="-space", preprocess=preprocess)
