"""The nodes that both forms of a decomposed DeformConv share: sampling positions, then the convolution.

Letters in shapes: N images, G offset groups, K kernel elements, P output pixels, C input channels.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.graph import PRECISION_KEY, annotate
from convkit_plugins.dcnv2.export._deform_node import DeformNode

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["DeformGraph"]

_LARGEST_CONSTANT = 2**20
"""Bytes of positions a layer that a file should store; beyond that the engine adds them up when it is built."""


_REASON = "positions and interpolation of a deformable convolution are float32"


class DeformGraph:
    """Adds the nodes that replace one DeformConv to its graph.

    Each node and tensor is called after the replaced node: ``NAME.role``. Positions are (y, x) in
    pixels, float32. What the graph fixes is computed here and becomes a constant.
    """

    def __init__(self, graph: gs.Graph, node: gs.Node, layer: DeformNode) -> None:
        self.layer = layer
        self._graph = graph
        self._node = node
        self._prefix = node.name or node.outputs[0].name
        self._taken = {*graph.tensors(), *(other.name for other in graph.nodes)}

    def add(self, op: str, role: str, *inputs: gs.Tensor | np.ndarray | np.generic, **attributes: Any) -> gs.Variable:
        """Append a node and return its output; arrays and NumPy scalars become constants."""
        import onnx_graphsurgeon as gs

        name = self._unused(role)
        tensors = [
            gs.Constant(self._unused(f"{role}.constant"), np.asarray(value))
            if isinstance(value, np.ndarray | np.generic)
            else value
            for value in inputs
        ]
        output = gs.Variable(name)
        node = gs.Node(op, name, attributes, tensors, [output])
        if self.layer.dtype != np.float32:
            annotate(node, PRECISION_KEY, _REASON)
        self._graph.nodes.append(node)
        return output

    def wide(self, tensor: gs.Tensor, role: str) -> gs.Tensor:
        """Return ``tensor`` in float32."""
        return tensor if self.layer.dtype == np.float32 else self.add("Cast", role, tensor, to=np.float32)

    def positions(self, *, corner_axis: bool = False, shift: float = 0) -> gs.Tensor:
        """Return the sampling positions plus ``shift``, [N * G, K, P, 2], with ``corner_axis`` [N * G, K, P, 1, 2]."""
        grouped = self.grouped(self.layer.offset, "offsets", self.layer.taps, 2, -1, *[1] * corner_axis)
        order = (0, 1, 3, 4, 2) if corner_axis else (0, 1, 3, 2)
        positions = self.add("Transpose", "offsets.yx_last", self.wide(grouped, "offsets.float32"), perm=order)
        return self.add("Add", "positions", positions, self._centres(corner_axis, shift))

    def grouped(self, tensor: gs.Tensor, role: str, *shape: int) -> gs.Tensor:
        """Return [N, G * …, height, width] as [N * G, *shape], where -1 is the axis of output pixels."""
        layer = self.layer
        if layer.offset_group == 1:
            return self._reshape(role, tensor, 0, *shape)
        if layer.points is not None:
            return self._reshape(role, tensor, -1, *(layer.points if size == -1 else size for size in shape))
        # Only one size can be left to Reshape: the pixels are put where the second one copies them.
        axis = 1 + shape.index(-1)
        flat = self._reshape(f"{role}.pixels", tensor, 0, 0, *[1] * (axis - 2), -1)
        return self._reshape(role, flat, -1, *(0 if size == -1 else size for size in shape))

    def grouped_features(self, features: gs.Tensor) -> gs.Tensor:
        """Return [N, C, height, width] as [N * G, C / G, height, width]."""
        layer = self.layer
        if layer.offset_group == 1:
            return features
        return self._reshape("features", features, -1, layer.channels // layer.offset_group, 0, 0)

    @cached_property
    def input_size(self) -> gs.Tensor | np.ndarray:
        """Height and width of the features, float32."""
        if None in self.layer.input_size:
            return self.add("Cast", "size", self._size(self.layer.x, "size.int64"), to=np.float32)
        return np.array(self.layer.input_size, np.float32)

    def convolve(self, columns: gs.Tensor) -> None:
        """Multiply the samples [N * G, C / G, K, P] by the weight and give the result the node's place."""
        import onnx_graphsurgeon as gs

        layer = self.layer
        if layer.dtype != np.float32:
            columns = self.add("Cast", "columns.narrow", columns, to=layer.dtype.type)
        if layer.offset_group != 1:
            columns = self._reshape("columns.all", columns, -1, layer.channels, 0, 0)
        shape = (layer.filters, layer.channels // layer.group, layer.taps, 1)
        if isinstance(layer.weight, gs.Constant):
            weight: gs.Tensor = gs.Constant(self._unused("weight"), layer.weight.values.reshape(shape))
        else:
            weight = self._reshape("weight", layer.weight, *shape)
        operands = [columns, weight] if layer.bias is None else [columns, weight, layer.bias]
        result = self.add("Conv", "conv", *operands, group=layer.group, kernel_shape=[layer.taps, 1])
        height, width = layer.output_size
        if height is None and width is None:
            head = np.array([0, layer.filters])
            self.add("Reshape", "result", result, self.add("Concat", "shape", head, self._output_size, axis=0))
        else:
            self._reshape("result", result, 0, 0, *(-1 if size is None else size for size in (height, width)))
        self._graph.nodes[-1].outputs = list(self._node.outputs)
        self._node.inputs.clear()
        self._node.outputs.clear()

    def _centres(self, corner_axis: bool, shift: float) -> gs.Tensor | np.ndarray:
        """Return the position of each sample without its displacement, plus ``shift``.

        It is one term, so that a position is rounded as often as in a kernel for DeformConv.
        """
        layer = self.layer
        stride, pad, dilation = (np.array(pair) for pair in (layer.stride, layer.pad, layer.dilation))
        taps = np.indices(layer.kernel).reshape(2, -1).T * dilation - pad + np.float32(shift)
        taps = np.expand_dims(taps.astype(np.float32), (1, 2) if corner_axis else 1)
        height, width = layer.output_size
        if height is None or width is None:
            return self.add("Add", "centres", self._pixels(corner_axis), taps)
        pixels = (np.indices((height, width)).reshape(2, -1).T * stride).astype(np.float32)
        pixels = np.expand_dims(pixels, 1) if corner_axis else pixels
        if layer.taps * pixels.nbytes > _LARGEST_CONSTANT:
            return self.add("Add", "centres", pixels, taps)
        return taps + pixels

    def _pixels(self, corner_axis: bool) -> gs.Tensor:
        """Return row and column of each output pixel times the stride, counted when the graph runs."""
        number = self.add("ReduceProd", "pixels.number", self._output_size, keepdims=0)
        index = self.add("Range", "pixels.index", np.int64(0), number, np.int64(1))
        index = self._reshape("pixels.column", index, -1, *[1] * (1 + corner_axis))
        width = self._size(self.layer.offset, "width", 3)
        width_and_1 = self.add("Concat", "width_and_1", width, np.array([1]), axis=0)
        pixels = self.add("Div", "pixels.row", index, width_and_1)
        pixels = self.add("Mod", "pixels.yx", pixels, self._output_size)
        pixels = self.add("Cast", "pixels", pixels, to=np.float32)
        if self.layer.stride == (1, 1):
            return pixels
        return self.add("Mul", "pixels.strided", pixels, np.array(self.layer.stride, np.float32))

    @cached_property
    def _output_size(self) -> gs.Tensor:
        return self._size(self.layer.offset, "output_size")

    def _size(self, tensor: gs.Tensor, role: str, start: int = 2) -> gs.Tensor:
        return self.add("Shape", role, tensor, start=start, end=4)

    def _reshape(self, role: str, tensor: gs.Tensor, *shape: int) -> gs.Tensor:
        return self.add("Reshape", role, tensor, np.array(shape))

    def _unused(self, role: str) -> str:
        """Return a tensor name that the graph does not have yet."""
        name, number = f"{self._prefix}.{role}", 2
        while name in self._taken:
            name, number = f"{self._prefix}.{role}.{number}", number + 1
        self._taken.add(name)
        return name
