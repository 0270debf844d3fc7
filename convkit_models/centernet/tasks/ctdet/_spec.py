"""What outlives the checkpoint: the specification of a CenterNet that was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convkit import Dim, ModelSpec, Request, TensorSpec, Tolerance, exactly
from convkit.errors import SettingError
from convkit.processing import check_normalisation
from convkit_models.centernet._names import INPUT, class_names
from convkit_models.centernet.networks import STRIDE, Layout

__all__ = ["DECODE", "OUTPUT_PATCH", "PREPROCESS", "describe"]

PREPROCESS = "centernet.affine"
DECODE = "centernet.ctdet"
OUTPUT_PATCH = "centernet.output-form"

_LOGITS = Tolerance(atol=1e-5, reason="float32 sums in another order; 1e-5 of a logit moves a score by 3e-6 at most")
_CELLS = Tolerance(atol=1e-5, reason="float32 sums in another order; 1e-5 of a cell is 0.00004 px of the input")
_PIXELS = Tolerance(atol=4e-5, reason="float32 sums in another order; as in the heads, times the stride of 4")


_THRESHOLDS = {"confidence": 0.25, "nms": 0.5}
"""The options that only the decoding of tensorRT_Pro has, with their defaults."""


def describe(request: Request, layout: Layout, options: Mapping[str, Any], info: Mapping[str, Any]) -> ModelSpec:
    """Return the specification of a network in the form and sizes that were asked for.

    Raises:
        SettingError: the request does not go with this network.
    """
    dims = {dim.name: _narrowed(dim, layout.multiple) for dim in request.dims}
    classes = layout.channels["hm"]
    sizes_per_class = layout.channels["wh"] != 2
    _check(request.form, dims, options, sizes_per_class)
    names = class_names(classes, request.names)
    keep_res = options["resize"] == "keep_res"
    expect = {OUTPUT_PATCH: exactly(1)}
    if layout.deformable:
        expect["dcnv2.fold-batchnorm"] = exactly(layout.deformable)
    return ModelSpec(
        variant=layout.architecture,
        dims=tuple(dims.values()),
        inputs=(TensorSpec(INPUT, ("batch", 3, "height", "width")),),
        outputs=_outputs(request.form, layout, options["topk"]),
        preprocess={
            "kind": PREPROCESS,
            "resize": options["resize"],
            "height": None if keep_res else dims["height"].opt,
            "width": None if keep_res else dims["width"].opt,
            "pad": layout.multiple - 1,
            "mean": list(options["mean"]),
            "std": list(options["std"]),
        },
        decode={
            "kind": DECODE,
            "form": request.form,
            "stride": STRIDE,
            "topk": options["topk"],
            "sizes_per_class": sizes_per_class,
            "classes": list(names),
            **_mode(options),
        },
        classes=names,
        info=info,
        expect=expect,
    )


def _mode(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the decode specification holds besides, for another decoding than the official one."""
    if options["decode"] == "official":
        return {}
    return {"mode": options["decode"], "confidence": options["confidence"], "nms": options["nms"]}


def _narrowed(dim: Dim, multiple: int) -> Dim:
    return replace(dim, multiple_of=multiple) if dim.name in ("height", "width") else dim


def _check(form: str, dims: Mapping[str, Dim], options: Mapping[str, Any], sizes_per_class: bool) -> None:
    topk = options["topk"]
    if topk < 1:
        raise SettingError(f"Option 'topk' cannot be {topk}.", hint="Give at least 1; the official value is 100.")
    check_normalisation({name: list(options[name]) for name in ("mean", "std")}, largest=1.0)
    if options["resize"] == "keep_res" and not (dims["height"].dynamic and dims["width"].dynamic):
        raise SettingError(
            "With resize=keep_res the input is as large as each image, but height and width are fixed.",
            hint="Give ranges, for example --shape height=64:512:1344 --shape width=64:512:1344.",
        )
    if options["decode"] == "official":
        for name, default in _THRESHOLDS.items():
            if options[name] != default:
                raise SettingError(
                    f"Option {name!r} is {options[name]}, but the official decoding has no such threshold.",
                    hint="Add --set decode=tensorrt-pro, or leave it out.",
                )
    else:
        if form == "detections":
            raise SettingError(
                f"The form 'detections' holds boxes that the official decoding chose; {options['decode']} cannot.",
                hint="Use --form heads or --form tensorrt-pro.",
            )
        for name in _THRESHOLDS:
            if not 0 < options[name] < 1:
                raise SettingError(f"Option {name!r} cannot be {options[name]}.", hint="Give a number between 0 and 1.")
    if form == "tensorrt-pro" and sizes_per_class:
        raise SettingError(
            "This network predicts a size for each class (--cat_spec_wh); form 'tensorrt-pro' has no room for that.",
            hint="Use --form heads or --form detections.",
        )
    cells = dims["height"].min // STRIDE * (dims["width"].min // STRIDE)
    if form == "detections" and cells < topk:
        raise SettingError(
            f"The smallest input has {cells} cells, fewer than the {topk} detections that are asked for.",
            hint=f"Give a larger height and width, or --set topk={cells}.",
        )


def _outputs(form: str, layout: Layout, topk: int) -> tuple[TensorSpec, ...]:
    channels = layout.channels
    if form == "detections":
        return (TensorSpec("detections", ("batch", topk, 6), compare="results", tolerance=_PIXELS),)
    if form == "tensorrt-pro":
        columns = 4 + 2 * channels["hm"]
        return (TensorSpec("output", ("batch", "height/4*width/4", columns), tolerance=_CELLS),)
    return tuple(
        TensorSpec(
            name,
            ("batch", channels[name], f"height/{STRIDE}", f"width/{STRIDE}"),
            tolerance=_LOGITS if name == "hm" else _CELLS,
        )
        for name in ("hm", "wh", "reg")
        if name in channels
    )
