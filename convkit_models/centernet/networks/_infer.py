"""From the names and shapes of a checkpoint's tensors to the layout of its network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from convkit.errors import CheckpointError, listing
from convkit_models.centernet.networks._families import ARCHITECTURES, FAMILIES
from convkit_models.centernet.networks._layout import Layout
from convkit_models.centernet.networks._resnet_layout import LAYERS
from convkit_models.centernet.networks._widths import Shape, Widths

__all__ = ["check_fit", "infer_layout"]

_CLASSIFIER = {"conv1", "bn1", "fc", *LAYERS}
_HEADS = (
    *("hm", "wh", "reg", "hps", "hm_hp", "hp_offset", "dep", "rot", "dim"),
    *(f"{kind}_{side}" for kind in ("hm", "reg") for side in "tlbr"),
    "hm_c",
    *("id", "tracking", "ltrb", "ltrb_amodal", "amodel_offset", "velocity", "nuscenes_att"),
)
"""The heads of all tasks, in the order of outputs; the last ones are those of CenterTrack and FairMOT."""
_OTHER_TASKS = {
    "object_pose (CenterPose)": {"hps_uncertainty", "scale_uncertainty", "hp_scale", "obj_scale"},
    "rotated boxes": {"ang", "angle", "theta", "cls_theta"},
    "instance segmentation": {"seg", "mask", "seg_feat", "conv_weight", "shape", "saliency"},
}
_OTHER_FAMILIES = (
    ("a hourglass as CornerNet has it", ("kps.", "tl_cnvs.")),
    ("a ResNet with FPN and DCN, the resfpndcn of FairMOT", ("deconv_layer1.", "smooth_layer1.")),
    ("a ResNet with FPN and DCN, the resfpndcn of FairMOT", ("deconv_layer1.", "project_layer1.")),
    ("hrnet", ("transition1.", "stage2.")),
    ("centernet-pytorch (bubbliiiing)", ("decoder.deconv_layers.", "head.")),
    ("a CenterNet of MMDetection", ("neck.deconv_layers.", "bbox_head.")),
    ("CenterNet2", ("proposal_generator.", "roi_heads.")),
    ("a two-stage detector (Faster R-CNN)", ("backbone.", "roi_heads.")),
    ("a detector of MMDetection", ("backbone.", "bbox_head.")),
    ("DETR", ("transformer.encoder.", "class_embed.")),
    ("YOLO", ("model.0.conv.", "model.1.")),
    ("YOLO", ("0.conv.", "1.conv.")),
    ("a vision transformer", ("patch_embed.", "blocks.")),
)
"""Networks that people take for one of these, each with how some of its entries begin; the first that fits counts."""
_SHOWN = 10
_BUILDS = f"This adapter builds {', '.join(ARCHITECTURES)}."


def infer_layout(shapes: Mapping[str, Shape], source: str) -> Layout:
    """Return the layout of the network nearest to these tensors; `check_fit` says whether it fits.

    Raises:
        CheckpointError: they belong to another kind of network or another task, or lack a head.
    """
    _refuse_other_families(shapes, source)
    family = next(family for family in FAMILIES if _top_level(shapes) >= family.marks)
    _refuse_other_tasks(shapes, source, family.parts)
    return family.infer(Widths(shapes), [name for name in _HEADS if name in _top_level(shapes)])


def check_fit(layout: Layout, expected: Mapping[str, Shape], found: Mapping[str, Shape], source: str) -> None:
    """Check that the entries are exactly those of the layout's network, and of its shapes.

    Raises:
        CheckpointError: something is missing, extra or of another shape; the message lists it.
    """
    lines = _differences(expected, found)
    if lines:
        fitting = sum(found.get(name) == shape for name, shape in expected.items())
        shown = "".join(f"\n  {line}" for line in lines[:_SHOWN])
        more = f"\n  … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise CheckpointError(
            f"{source} does not fit {layout.architecture}, the closest architecture:"
            f" {fitting} of its {len(expected)} entries do.{shown}{more}",
            hint="Is the file complete, and from unchanged CenterNet code? " + _BUILDS,
        )


def _differences(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> list[str]:
    missing = [f"missing: {name} {expected[name]}" for name in expected if name not in found]
    extra = [f"extra: {name} {found[name]}" for name in found if name not in expected]
    shape = [
        f"shape: {name} is {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    return missing + shape + extra


def _refuse_other_families(shapes: Mapping[str, Shape], source: str) -> None:
    for family, prefixes in _OTHER_FAMILIES:
        if all(any(name.startswith(prefix) for name in shapes) for prefix in prefixes):
            raise CheckpointError(f"{source} is a checkpoint of {family}, going by its entries.", hint=_BUILDS)
    tops = _top_level(shapes)
    if any(tops >= family.marks for family in FAMILIES):
        return
    if tops >= {"conv1", *LAYERS}:
        if more := [top for top in dict.fromkeys(name.split(".")[0] for name in shapes) if top not in _CLASSIFIER]:
            raise CheckpointError(
                f"{source} has the trunk of a ResNet, but no 'deconv_layers'; beside the trunk it has {listing(more)}.",
                hint="It is of another network than the official CenterNet. " + _BUILDS,
            )
        raise CheckpointError(
            f"{source} is a plain ResNet (an ImageNet classifier or backbone): it has no 'deconv_layers'.",
            hint="Give the checkpoint of the CenterNet that was trained from it. " + _BUILDS,
        )
    sample = ", ".join(list(shapes)[:4])
    raise CheckpointError(
        f"{source} is not a checkpoint of a CenterNet; its {len(shapes)} entries start with {sample}.",
        hint=_BUILDS,
    )


def _refuse_other_tasks(shapes: Mapping[str, Shape], source: str, trunk: frozenset[str]) -> None:
    heads = [name for name in dict.fromkeys(name.split(".")[0] for name in shapes) if name not in trunk]
    for task, marks in _OTHER_TASKS.items():
        if marks & set(heads):
            raise CheckpointError(
                f"{source} was trained for the task {task}: its heads are {', '.join(heads)}.", hint=_BUILDS
            )
    if other := [head for head in heads if head not in _HEADS and head != "fc"]:
        raise CheckpointError(
            f"{source} has entries that no task needs: {listing(other)}; its heads are {', '.join(heads)}.",
            hint="It was trained for another task, or with changed code. " + _BUILDS,
        )


def _top_level(shapes: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in shapes}
