"""The specification of a CenterNet for poses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convkit import ModelSpec, Request, TensorSpec
from convkit.errors import CheckpointError
from convkit.results import COCO_EDGES, COCO_JOINTS
from convkit_models.centernet._names import class_names
from convkit_models.centernet.networks import Layout
from convkit_models.centernet.tasks._shared import PIXELS, check_channels, check_room_for, checked_dims, model_spec

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
    dims = checked_dims(request, layout, options, "multi_pose", forms=("heads", "detections"), decodings=("official",))
    topk, joints = options["topk"], layout.channels["hps"] // 2
    outputs: tuple[TensorSpec, ...] = ()
    if request.form == "detections":
        check_room_for(topk, dims, "poses")
        columns = 4 + 1 + 2 * joints + 1
        outputs = (TensorSpec("poses", ("batch", topk, columns), compare="results", tolerance=PIXELS),)
    coco = joints == len(COCO_JOINTS)
    decode = {
        "kind": DECODE,
        "joints": list(COCO_JOINTS) if coco else [f"joint {index}" for index in range(joints)],
        "edges": [list(edge) for edge in COCO_EDGES] if coco else [],
    }
    names = class_names(1, request.names or ("person",))
    return model_spec(request, layout, options, info, dims, decode, names=names, suffix="-pose", outputs=outputs)
