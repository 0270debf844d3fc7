"""Resizing: by the nearest value, or between values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch._accept import NUMBERS, refuse
from convkit.backends.torch._node import Builder, Function, Key, TorchNode, operator

__all__ = ["RESIZING"]

RESIZING: dict[Key, Builder] = {}


_RULES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
_SMOOTH_RULES = _RULES[:3]
_ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@operator(RESIZING, "Resize", "Upsample", types=NUMBERS, host=(1, 2, 3), oldest=9)
def _resize(node: TorchNode) -> Function:
    mode, upsample, old = node.choice("mode", "nearest", "nearest", "linear", "cubic"), node.op_type, node.opset < 11
    rule = node.choice(
        "coordinate_transformation_mode", "half_pixel", *(_RULES if mode == "nearest" else _SMOOTH_RULES)
    )
    rounding = node.choice("nearest_mode", "round_prefer_floor", *_ROUNDINGS)
    if upsample == "Upsample" or old:
        rule, rounding = "asymmetric", "floor"
        if mode != "nearest":
            raise refuse(node, f"its mode {mode!r} counts from the corner of a pixel")
    for name, value in (("antialias", 0), ("exclude_outside", 0), ("cubic_coeff_a", -0.75)):
        if node.attributes.get(name, value) != value:
            raise refuse(node, f"its {name} is {node.attributes[name]}, and the backend knows {value}")
    node.choice("keep_aspect_ratio_policy", "stretch", "stretch")
    node.ignore("extrapolation_value")  # it is for the rule that crops
    first = 1 if old or upsample == "Upsample" else 2
    chosen = node.attributes.get("axes")
    places: dict[Any, Tensor] = {}

    def run(x: Tensor, *settings: Tensor | None) -> Tensor:
        given = dict(enumerate(settings, 1))
        scales, sizes = given.get(first), given.get(3)
        listed = list(chosen) if chosen is not None else list(range(x.dim()))
        factors = [1.0] * x.dim()
        target = list(x.shape)
        by_sizes = sizes is not None and bool(sizes.numel())
        if sizes is not None and by_sizes:
            for axis, size in zip(listed, sizes.tolist(), strict=True):
                target[axis], factors[axis] = size, size / x.shape[axis]
        else:
            if scales is None or len(scales) != len(listed):
                raise refuse(node, "it has neither a size nor a scale for each axis")
            for axis, factor in zip(listed, scales.tolist(), strict=True):
                target[axis], factors[axis] = math.floor(x.shape[axis] * factor), factor
        whole = by_sizes or all(
            size == have * factor for size, have, factor in zip(target, x.shape, factors, strict=True)
        )
        if rule == "align_corners" and not whole:
            raise refuse(node, "it aligns corners by scales that give no whole size, where engines differ")
        if mode == "nearest":
            return _nearest(x, target, factors, rule, rounding, places)
        return _smooth(node, x, target, factors, mode, rule, whole)

    return run


def _nearest(
    x: Tensor, target: Sequence[int], factors: Sequence[float], rule: str, rounding: str, places: dict[Any, Tensor]
) -> Tensor:
    for axis, (size, factor) in enumerate(zip(target, factors, strict=True)):
        have = x.shape[axis]
        if size == have and factor == 1.0:
            continue
        key = (axis, have, size, factor)
        if key not in places:
            chosen = _nearest_places(have, size, factor, rule, rounding)
            places[key] = torch.from_numpy(chosen).to(x.device)
        x = x.index_select(axis, places[key])
    return x


def _nearest_places(have: int, size: int, factor: float, rule: str, rounding: str) -> np.ndarray:
    """Return which input value each output value takes, by ONNX's definition of the coordinates.

    A factor that is a ratio of sizes is divided by as such, because one rounding can move a whole number below itself.
    """
    at = np.arange(size, dtype=np.float64)
    over, under = (have, size) if factor == size / have else (1, factor)
    if rule == "align_corners":
        at = at * (have - 1) / (size - 1) if size > 1 else at * 0
    elif rule == "asymmetric":
        at = at * over / under
    elif rule == "pytorch_half_pixel" and size == 1:
        at = at * 0
    else:
        at = (at + 0.5) * over / under - 0.5
    chosen: np.ndarray = np.clip(_ROUNDINGS[rounding](at), 0, have - 1).astype(np.int64)
    return chosen


def _smooth(
    node: TorchNode, x: Tensor, target: Sequence[int], factors: Sequence[float], mode: str, rule: str, whole: bool
) -> Tensor:
    spatial = x.dim() - 2
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear", ("cubic", 2): "bicubic"}
    if list(target[:2]) != list(x.shape[:2]) or (mode, spatial) not in names:
        raise refuse(node, f"mode {mode!r} resizes batch or channels, or too many axes")
    if not x.is_floating_point():
        raise refuse(node, f"mode {mode!r} of {str(x.dtype).removeprefix('torch.')}")
    factors = list(factors)
    for axis in range(2, x.dim()):
        if rule == "pytorch_half_pixel" and target[axis] == 1:  # then it takes the first value, not the middle
            x, factors[axis] = x.narrow(axis, 0, 1), 1.0
    name, align = names[mode, spatial], rule == "align_corners"
    if align or whole:
        return F.interpolate(x, list(target[2:]), mode=name, align_corners=align)
    return F.interpolate(
        x, scale_factor=tuple(factors[2:]), mode=name, align_corners=False, recompute_scale_factor=False
    )
