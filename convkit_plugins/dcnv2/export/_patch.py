"""Export patches for deformable layers of other projects: the operator replaces their compiled CUDA code.

The layers are recognised by their attributes and signature, not by class or import path, since every project ships a
copy of its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, nn

from convkit import ModulePatch, optional
from convkit_plugins.dcnv2.op import DCN, deform_conv2d, pair, split_offset_mask

__all__ = ["patches"]

_GROUP_NAMES = ("deformable_groups", "deform_groups", "offset_groups")


def patches() -> list[ModulePatch]:
    """Return the patches; both are optional, since most models have no such layer."""
    return [
        ModulePatch(
            name="dcnv2.layer",
            reason="a DCN that calls a compiled extension, which neither runs on the CPU nor exports",
            match=_match_predicting,
            forward=_forward_predicting,
            expect=optional(),
        ),
        ModulePatch(
            name="dcnv2.layer-with-given-offsets",
            reason="a deformable convolution that gets its offsets from outside and calls a compiled extension",
            match=_match_given,
            forward=_forward_given,
            expect=optional(),
        ),
    ]


def _match_predicting(path: str, module: nn.Module) -> bool | str:
    """Match layers with ``conv_offset_mask``: ``DCN`` of CenterNet, DCNv2 and DCNv2_latest."""
    predictor = getattr(module, "conv_offset_mask", None)
    if predictor is None or isinstance(module, DCN):
        return False
    problem = _layout_problem(module)
    if problem:
        return problem
    if not isinstance(predictor, nn.Conv2d):
        return f"conv_offset_mask is a {type(predictor).__name__}, not a Conv2d"
    kernel = _kernel(module)
    groups = _offset_groups(module)
    if groups is None:
        return f"has none of the attributes {', '.join(_GROUP_NAMES)}"
    expected = 3 * groups * prod(kernel)
    if predictor.out_channels != expected:
        return (
            f"conv_offset_mask has {predictor.out_channels} output channels; {groups} offset groups"
            f" of {kernel[0]} x {kernel[1]} taps need {expected}"
        )
    if isinstance(predictor.padding, str) or _resizing(predictor) != _resizing(module):
        return "conv_offset_mask returns a map of another size than the layer itself"
    return True


def _forward_predicting(module: Any, original: Callable[..., Any], x: Tensor) -> Tensor:
    del original
    return _convolve(module, x, *split_offset_mask(module.conv_offset_mask(x)), _offset_groups(module) or 1)


def _match_given(path: str, module: nn.Module) -> bool | str:
    """Match layers called as (x, offset[, mask]): ``DCNv2``, torchvision's and mmcv's."""
    if hasattr(module, "conv_offset_mask") or not isinstance(getattr(module, "weight", None), Tensor):
        return False
    try:
        accepted = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):  # a scripted module, for one
        return False
    if "offset" not in accepted:
        return False
    if accepted[1:] not in (["offset"], ["offset", "mask"]):
        return f"forward takes ({', '.join(accepted)}), not (input, offset, mask)"
    return _layout_problem(module) or True


def _forward_given(module: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
    x, offset, *rest = inspect.signature(original).bind(*args, **kwargs).arguments.values()
    groups = _offset_groups(module) or offset.shape[1] // (2 * prod(_kernel(module)))
    return _convolve(module, x, offset, rest[0] if rest else None, groups)


def _convolve(module: Any, x: Tensor, offset: Tensor, mask: Tensor | None, groups: int) -> Tensor:
    return deform_conv2d(
        x, module.weight, offset, module.bias, mask, module.stride, module.padding, module.dilation, groups
    )


def _layout_problem(module: nn.Module) -> str:
    """Return why the operator cannot replace this layer, or an empty string."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        return "has no weight of shape [out, in, kh, kw]"
    missing = [name for name in ("bias", "stride", "padding", "dilation") if not hasattr(module, name)]
    if missing:
        return f"has no attribute {', '.join(missing)}"
    for name in ("stride", "padding", "dilation"):
        value = getattr(module, name)
        if not isinstance(value, int) and not (
            isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, int) for part in value)
        ):
            return f"its {name} is {value!r}, neither a number nor two"
    groups = getattr(module, "groups", 1)
    if groups != 1:
        return f"its convolution has {groups} groups; the operator has one"
    return ""


def _kernel(module: Any) -> tuple[int, int]:
    return pair(module.weight.shape[2:])


def _resizing(module: Any) -> list[tuple[int, int]]:
    """Return (stride, loss) for each axis: an axis of n becomes (n - 1 - loss) // stride + 1."""
    settings = zip(_kernel(module), pair(module.stride), pair(module.padding), pair(module.dilation), strict=True)
    return [(stride, dilation * (kernel - 1) - 2 * padding) for kernel, stride, padding, dilation in settings]


def _offset_groups(module: nn.Module) -> int | None:
    """Return how many offset groups a layer declares, or None where that follows from the shape of its offsets."""
    for name in _GROUP_NAMES:
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None
