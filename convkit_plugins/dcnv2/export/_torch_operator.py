"""``DeformConv`` and ``convkit::DCNv2`` for the backend ``torch``: the operator of this plugin computes the nodes.

On a GPU one kernel also computes the two slices and the sigmoid before a DeformConv, and the ReLU after it. The node of
the TensorRT plugin is there to prove its graph: its weights are unpacked by definition, and no kernel has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from convkit.errors import EnvironmentProblem
from convkit_plugins.dcnv2.op import dcnv2, deform_conv2d
from convkit_plugins.dcnv2.tensorrt import DOMAIN, OP_TYPE, AotSettings, packed_deform_conv

if TYPE_CHECKING:
    from convkit import TorchNode

__all__ = ["OPERATORS"]

_FUSING_DEVICE = "cuda"
"""The type of device on which one kernel computes the whole layer."""

_Built = tuple[Callable[..., Tensor], Sequence[str]]


class _Settings(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def _settings(node: TorchNode) -> _Settings:
    """Return the settings of a node; raise `EnvironmentProblem` where the operator does not support them."""
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
    kernel, weight = get("kernel_shape"), node.constant(1)
    if kernel is not None and weight is not None and list(kernel) != list(weight.shape[2:]):
        raise EnvironmentProblem(
            f"{node.title} has the kernel_shape {list(kernel)}, but its weight has {list(weight.shape)}.",
            hint="The file is damaged; convert again.",
        )
    (sy, sx), (dy, dx) = get("strides") or (1, 1), get("dilations") or (1, 1)
    return _Settings((sy, sx), (top, left), (dy, dx), get("offset_group", 1))


def _deform_conv(node: TorchNode) -> Callable[..., Tensor] | _Built:
    """Return a function that computes a node, from the raw tensor where its slices are recognised."""
    settings = _settings(node)
    fused = _from_raw(node, settings, relu=False)
    if fused is not None:
        return fused

    def run(
        x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return deform_conv2d(x, weight, offset, bias, mask, *settings)

    return run


def _deform_conv_relu(node: TorchNode) -> _Built | None:
    """Return a function that computes a node and the ReLU after it in one kernel; None where two steps are needed."""
    conv = node.source(0)
    return _from_raw(conv, _settings(conv), relu=True) if conv is not None else None


def _from_raw(node: TorchNode, settings: _Settings, *, relu: bool) -> _Built | None:
    """Return the function of x and the raw tensor, and their names; None if the node has other inputs."""
    weight, bias = node.constant(1), node.constant(3)
    offset, sigmoid = node.source(2), node.source(4)
    mask = sigmoid.source(0) if sigmoid is not None and sigmoid.op_type == "Sigmoid" else None
    if node.device.type != _FUSING_DEVICE or weight is None or bias is None or offset is None or mask is None:
        return None
    taps = settings.groups * weight.shape[2] * weight.shape[3]
    if offset.inputs[0] != mask.inputs[0] or _channels(offset) != (0, 2 * taps):
        return None
    first, last = _channels(mask) or (0, 0)
    if first != 2 * taps or last < 3 * taps:
        return None
    filters, added = node.tensor(weight), node.tensor(bias)

    def run(x: Tensor, raw: Tensor) -> Tensor:
        return dcnv2(x, raw, filters, added, *settings, relu=relu)

    return run, (node.inputs[0], offset.inputs[0])


def _packed(node: TorchNode) -> Callable[..., Tensor]:
    """Return a function that computes the node of the TensorRT plugin."""
    settings = AotSettings.from_fields(node.attributes)
    node.ignore("aot", "plugin_version", "plugin_namespace")  # they say which plugin TensorRT makes of the node

    def run(x: Tensor, offset: Tensor, mask: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
        return packed_deform_conv(settings, x, offset, mask, packed, bias)

    return run


def _channels(node: TorchNode) -> tuple[int, int] | None:
    """Return (first, last + 1) of the channels that a Slice takes; None for any other node."""
    if node.op_type != "Slice" or node.integers(3) != [1] or node.integers(4) not in (None, [1]):
        return None
    starts, ends = node.integers(1), node.integers(2)
    return (starts[0], ends[0]) if starts and ends else None


OPERATORS = {
    ("", "DeformConv"): _deform_conv,
    ("", "DeformConv+Relu"): _deform_conv_relu,
    (DOMAIN, OP_TYPE): _packed,
}
