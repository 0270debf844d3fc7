"""From the names and shapes of a checkpoint's tensors to the layout of its network.

Every width is decided by the majority of the tensors that share it, so that one tensor of a wrong
shape is reported as that, and does not bend the layout around itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from convkit.errors import CheckpointError, listing
from convkit_models.centernet.networks._layout import ARCHITECTURES, BLOCKS, Head, Layout, Stage, Step, is_bottleneck

__all__ = ["check_fit", "infer_layout"]

Shape = tuple[int, ...]

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_TRUNK = ("conv1", "bn1", *_LAYERS, "deconv_layers")
_CLASSIFIER = {"conv1", "bn1", "fc", *_LAYERS}
_HEADS = ("hm", "wh", "reg")
_OTHER_TASKS = {
    "mot (multi-object tracking, as in FairMOT)": {"id"},
    "tracking (CenterTrack)": {"tracking", "ltrb", "ltrb_amodal"},
    "object_pose (CenterPose)": {"hps_uncertainty", "scale_uncertainty", "hp_scale", "obj_scale"},
    "multi_pose": {"hps", "hm_hp", "hp_offset"},
    "ddd": {"dep", "rot", "dim", "amodel_offset", "velocity", "nuscenes_att"},
    "exdet": {"hm_t", "hm_l", "hm_b", "hm_r", "hm_c"},
    "rotated boxes": {"ang", "angle", "theta", "cls_theta"},
    "instance segmentation": {"seg", "mask", "seg_feat", "conv_weight", "shape", "saliency"},
}
_OTHER_FAMILIES = (
    ("dla_34 of CenterTrack", ("pre_img_layer", "ida_up.")),
    ("dla_34 of CenterTrack", ("base.pre_img_layer", "ida_up.")),
    ("dla_34", ("base.base_layer", "ida_up.")),
    ("dlav0_34", ("base.base_layer", "dla_up.")),
    ("hourglass", ("kps.", "cnvs.")),
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
_BUILDS = f"This adapter builds {', '.join(ARCHITECTURES)}, for the task ctdet."


def infer_layout(shapes: Mapping[str, Shape], source: str) -> Layout:
    """Return the layout of the network nearest to these tensors; `check_fit` says whether it fits.

    Raises:
        CheckpointError: they belong to another kind of network or another task, or lack a head.
    """
    _refuse_other_families(shapes, source)
    _refuse_other_tasks(shapes, source)
    known = _Widths(shapes)
    family = "resdcn" if any(".conv_offset_mask." in name for name in shapes) else "res"
    depth = _depth(shapes)
    official = Layout.named(f"{family}_{depth}", {})
    return Layout(
        family=family,
        depth=depth,
        stem=known.conv(official.stem, "conv1", "bn1", ("layer1.0.conv1.weight", 1)),
        stages=tuple(_stage(known, layer, stage) for layer, stage in zip(_LAYERS, official.stages, strict=True)),
        steps=_steps(known, official),
        heads=tuple(_head(known, name) for name in _HEADS if name in _top_level(shapes)),
    )


def check_fit(layout: Layout, expected: Mapping[str, Shape], found: Mapping[str, Shape], source: str) -> None:
    """Check that the entries are exactly those of the layout's network, and the heads those of the task.

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
    channels = layout.channels
    classes = channels["hm"]
    if channels["wh"] not in (2, 2 * classes):
        raise CheckpointError(
            f"{source} has a head wh of {channels['wh']} channels, with {classes} classes.",
            hint=f"It must have 2, or {2 * classes} where training used --cat_spec_wh.",
        )
    if channels.get("reg", 2) != 2:
        raise CheckpointError(
            f"{source} has a head reg of {channels['reg']} channels.", hint="It must have 2, for x and y."
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
    if "deconv_layers" in tops and tops & set(_LAYERS):
        return
    if tops >= {"conv1", *_LAYERS}:
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
        f"{source} is not a checkpoint of a CenterNet with a ResNet; its {len(shapes)} entries start with {sample}.",
        hint=_BUILDS,
    )


def _refuse_other_tasks(shapes: Mapping[str, Shape], source: str) -> None:
    heads = [name for name in dict.fromkeys(name.split(".")[0] for name in shapes) if name not in _TRUNK]
    for task, marks in _OTHER_TASKS.items():
        if marks & set(heads):
            raise CheckpointError(
                f"{source} was trained for the task {task}: its heads are {', '.join(heads)}.", hint=_BUILDS
            )
    if other := [head for head in heads if head not in _HEADS and head != "fc"]:
        raise CheckpointError(
            f"{source} has entries that boxes do not need: {listing(other)}; its heads are {', '.join(heads)}.",
            hint="It was trained for another task, or with changed code. " + _BUILDS,
        )
    for name in ("hm", "wh"):
        if name not in heads:
            raise CheckpointError(
                f"{source} has no head {name!r}; its heads are {', '.join(heads) or 'none'}.",
                hint="Boxes need the heads hm and wh (reg is optional). Is the file complete?",
            )


def _top_level(shapes: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in shapes}


def _depth(shapes: Mapping[str, Shape]) -> int:
    """Return the depth whose number of blocks is nearest, among those with the same kind of block."""
    counts = [len({m[1] for name in shapes if (m := re.match(rf"{layer}\.(\d+)\.", name))}) for layer in _LAYERS]
    bottleneck = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in shapes)
    return min(
        (depth for depth in BLOCKS if is_bottleneck(depth) == bottleneck),
        key=lambda depth: sum(abs(have - want) for have, want in zip(counts, BLOCKS[depth], strict=True)),
    )


class _Widths:
    """The shapes, and the vote over them."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes

    def width(self, default: int, *votes: tuple[str, int]) -> int:
        """Return the size that most of these (tensor, axis) pairs have; the first where they disagree evenly."""
        sizes = [
            self.shapes[name][axis] for name, axis in votes if name in self.shapes and axis < len(self.shapes[name])
        ]
        return Counter(sizes).most_common(1)[0][0] if sizes else default

    def conv(self, default: int, conv: str, norm: str, *more: tuple[str, int]) -> int:
        """Return the output width of a convolution with a normalisation behind it."""
        return self.width(default, (f"{conv}.weight", 0), *_norm(norm), *more)


def _norm(name: str) -> tuple[tuple[str, int], ...]:
    return tuple((f"{name}.{part}", 0) for part in ("weight", "bias", "running_mean", "running_var"))


def _stage(known: _Widths, layer: str, official: Stage) -> Stage:
    inner = []
    outs = [(f"{layer}.0.downsample.0.weight", 0), *_norm(f"{layer}.0.downsample.1")]
    for index, widths in enumerate(official.inner):
        block, last = f"{layer}.{index}", len(widths) + 1
        inner.append(
            tuple(
                known.conv(default, f"{block}.conv{i}", f"{block}.bn{i}", (f"{block}.conv{i + 1}.weight", 1))
                for i, default in enumerate(widths, 1)
            )
        )
        outs += [(f"{block}.conv{last}.weight", 0), *_norm(f"{block}.bn{last}")]
        outs += [(f"{layer}.{index + 1}.conv1.weight", 1)]
    return Stage(tuple(inner), known.width(official.out, *outs))


def _steps(known: _Widths, official: Layout) -> tuple[Step, ...]:
    steps = []
    modules = 6 if official.family == "resdcn" else 3
    for number, default in enumerate(official.steps):
        at = "deconv_layers.{}".format
        first, deform = number * modules, 0
        if default.deform:
            deform = known.conv(default.deform, at(first), at(first + 1), (f"{at(first + 3)}.weight", 0))
            first += 3
        steps.append(Step(deform, known.width(default.out, (f"{at(first)}.weight", 1), *_norm(at(first + 1)))))
    return tuple(steps)


def _head(known: _Widths, name: str) -> Head:
    if not any(other.startswith((f"{name}.0.", f"{name}.2.")) for other in known.shapes):
        return Head(name, known.width(1, (f"{name}.weight", 0), (f"{name}.bias", 0)), hidden=0)
    return Head(
        name,
        channels=known.width(1, (f"{name}.2.weight", 0), (f"{name}.2.bias", 0)),
        hidden=known.width(1, (f"{name}.0.weight", 0), (f"{name}.0.bias", 0), (f"{name}.2.weight", 1)),
    )
