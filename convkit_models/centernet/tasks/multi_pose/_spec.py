"""The specification of a CenterNet for poses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request, TensorSpec
from convkit.errors import CheckpointError
from convkit.results import COCO_EDGES, COCO_JOINTS
from convkit_models.centernet._names import INPUT, class_names
from convkit_models.centernet.networks import STRIDE, Layout
from convkit_models.centernet.tasks._shared import (
    PIXELS,
    check_channels,
    check_options,
    check_room_for,
    expected_patches,
    narrowed,
    output_maps,
    preprocess_of,
    refuse_decoding,
    refuse_form,
)

__all__ = ["DECODE", "check_heads", "describe"]

DECODE = "centernet.multi_pose"


def check_heads(layout: Layout, source: str) -> None:
    """Check the channels of the heads: one class, and two coordinates for each joint.

    Raises:
        CheckpointError: they are not those of the task.
    """
    points = layout.channels["hps"]
    if points % 2:
        raise CheckpointError(
            f"{source} has a head hps of {points} channels.", hint="It must have two for each joint, officially 34."
        )
    check_channels(layout, {"hm": 1, "wh": 2, "reg": 2, "hm_hp": points // 2, "hp_offset": 2}, source)
    if "hp_offset" in layout.channels and "hm_hp" not in layout.channels:
        raise CheckpointError(
            f"{source} has the head hp_offset, but no head hm_hp.",
            hint="The one refines the peaks of the other. Is the file complete?",
        )


def describe(request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a network in the form and sizes that were asked for.

    Raises:
        SettingError: the request does not go with this network.
    """
    dims = narrowed(request, layout)
    check_options(dims, options)
    refuse_form(request.form, ("heads", "detections"), "multi_pose")
    refuse_decoding(options, ("official",), "multi_pose")
    topk, joints = options["topk"], layout.channels["hps"] // 2
    if request.form == "detections":
        check_room_for(topk, dims, "poses")
        columns = 4 + 1 + 2 * joints + 1
        outputs: tuple[TensorSpec, ...] = (
            TensorSpec("poses", ("batch", topk, columns), compare="results", tolerance=PIXELS),
        )
    else:
        outputs = output_maps(layout)
    names = class_names(1, request.names or ("person",))
    coco = joints == len(COCO_JOINTS)
    return ModelSpec(
        variant=f"{layout.architecture}-pose",
        dims=tuple(dims.values()),
        inputs=(TensorSpec(INPUT, ("batch", 3, "height", "width")),),
        outputs=outputs,
        preprocess=preprocess_of(options, dims, layout),
        decode={
            "kind": DECODE,
            "form": request.form,
            "stride": STRIDE,
            "topk": topk,
            "joints": list(COCO_JOINTS) if coco else [f"joint {index}" for index in range(joints)],
            "edges": [list(edge) for edge in COCO_EDGES] if coco else [],
        },
        classes=names,
        info=info,
        expect=expected_patches(layout),
    )
