"""An ONNX ``DeformConv`` node as plain values: its tensors, geometry and the sizes that are fixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import NoMatch

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["DeformNode", "Size", "read_deform_conv"]

Size = tuple[int | None, int | None]
"""Height and width; None where the graph leaves it open."""


@dataclass(frozen=True)
class DeformNode:
    """What one DeformConv reads and how it samples. Pairs are (vertical, horizontal).

    ``pad`` is the padding above and to the left; that below and to the right only decides the
    output size, which ``offset`` has as well.
    """

    x: gs.Tensor
    weight: gs.Tensor
    offset: gs.Tensor
    bias: gs.Tensor | None
    mask: gs.Tensor | None
    dtype: np.dtype[Any]
    filters: int
    channels: int
    group: int
    offset_group: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pad: tuple[int, int]
    dilation: tuple[int, int]
    input_size: Size
    output_size: Size

    @property
    def taps(self) -> int:
        """The number of kernel elements."""
        return self.kernel[0] * self.kernel[1]

    @property
    def points(self) -> int | None:
        """The number of output pixels of an image, None where the graph leaves it open."""
        height, width = self.output_size
        return None if height is None or width is None else height * width


def read_deform_conv(node: gs.Node) -> DeformNode | NoMatch | None:
    """Return the values of ``node``, why they do not suffice, or None if it is no standard DeformConv."""
    if node.op != "DeformConv" or node.domain not in (None, "", "ai.onnx"):
        return None
    x, weight, offset = node.inputs[:3]
    bias, mask = _optional_input(node, 3), _optional_input(node, 4)
    dtype = next((tensor.dtype for tensor in (x, weight, offset, *node.outputs) if tensor.dtype is not None), None)
    if dtype is None:
        return NoMatch("its element type is not known; infer the shapes of the graph first")
    element = _numpy_dtype(dtype)
    if element is None:
        return NoMatch(f"its element type is {_dtype_name(dtype)}; only float32 and 16-bit ones can be replaced")
    extents = [extent for axis in range(4) if (extent := _extent(weight, axis)) is not None]
    if len(extents) != 4:
        return NoMatch(f"the shape of its weight {weight.name} is not fixed")
    filters, group_channels, *kernel = extents
    attributes = node.attrs
    stride, dilation, pads = (
        tuple(attributes.get(name, default))
        for name, default in (("strides", (1, 1)), ("dilations", (1, 1)), ("pads", (0, 0, 0, 0)))
    )
    group = attributes.get("group", 1)
    input_size = (_extent(x, 2), _extent(x, 3))
    known = [(_extent(tensor, 2), _extent(tensor, 3)) for tensor in (offset, mask, *node.outputs) if tensor is not None]
    known.append(_convolved(input_size, kernel, stride, dilation, pads))
    return DeformNode(
        x,
        weight,
        offset,
        bias,
        mask,
        element,
        filters,
        group_channels * group,
        group,
        attributes.get("offset_group", 1),
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        (pads[0], pads[1]),
        (dilation[0], dilation[1]),
        input_size,
        (_first(size[0] for size in known), _first(size[1] for size in known)),
    )


def _optional_input(node: gs.Node, position: int) -> gs.Tensor | None:
    """Return an input of a node, or None where it is absent or left empty."""
    if position >= len(node.inputs) or node.inputs[position].is_empty():
        return None
    return node.inputs[position]


def _extent(tensor: gs.Tensor, axis: int) -> int | None:
    """Return the size of an axis, or None where it is symbolic or unknown."""
    extent = None if tensor.shape is None or axis >= len(tensor.shape) else tensor.shape[axis]
    return int(extent) if isinstance(extent, int | np.integer) and extent >= 0 else None


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)


def _convolved(
    size: Size, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], pads: Sequence[int]
) -> Size:
    """Return the output size of a convolution over an input of ``size``."""

    def extent(axis: int, value: int | None) -> int | None:
        if value is None:
            return None
        room = value + pads[axis] + pads[axis + 2] - dilation[axis] * (kernel[axis] - 1) - 1
        return room // stride[axis] + 1

    return extent(0, size[0]), extent(1, size[1])


def _numpy_dtype(dtype: Any) -> np.dtype[Any] | None:
    """Return an element type that can be replaced as NumPy's, or None for any other."""
    import ml_dtypes
    import onnx

    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    if dtype in (onnx.TensorProto.BFLOAT16, bfloat16):
        return bfloat16
    return np.dtype(dtype) if dtype in (np.float32, np.float16) else None


def _dtype_name(dtype: Any) -> str:
    """Return an element type as ONNX writes it; NumPy has no bfloat16."""
    if isinstance(dtype, int):
        import onnx

        return str(onnx.TensorProto.DataType.Name(dtype)).lower()
    return str(np.dtype(dtype))
