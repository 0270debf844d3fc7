"""``DeformConv`` for the backend ``torch``: the ONNX node by the operator of this plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from convkit.errors import EnvironmentProblem
from convkit_plugins.dcnv2._op import deform_conv2d

if TYPE_CHECKING:
    from convkit import TorchNode

__all__ = ["OPERATORS"]


def _deform_conv(node: TorchNode) -> Callable[..., Tensor]:
    """Return what computes a node; `EnvironmentProblem` where the operator lacks its settings."""
    get = node.attributes.get
    top, left, bottom, right = get("pads") or (0, 0, 0, 0)
    if (top, left) != (bottom, right):
        raise EnvironmentProblem(
            f"{node.title} pads ({top}, {left}) pixels before and ({bottom}, {right}) after the image.",
            hint="The torch backend runs deformable convolutions with equal padding on opposite sides only.",
        )
    if get("group", 1) != 1:
        raise EnvironmentProblem(
            f"{node.title} is a grouped convolution (group={get('group')}).",
            hint="The torch backend runs ungrouped deformable convolutions only; offset groups are fine.",
        )
    stride, dilation = tuple(get("strides") or (1, 1)), tuple(get("dilations") or (1, 1))
    groups = get("offset_group", 1)

    def run(
        x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return deform_conv2d(x, weight, offset, bias, mask, stride, (top, left), dilation, groups)

    return run


OPERATORS = {("", "DeformConv"): _deform_conv}
