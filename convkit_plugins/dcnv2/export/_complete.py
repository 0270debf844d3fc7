"""Inputs that a DeformConv leaves out, for engines and plugins that want all five."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convkit_plugins.dcnv2.export._deform_node import DeformNode

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Inputs"]


class Inputs:
    """Makes constants and nodes beside a DeformConv; each is called ``NAME.role``."""

    def __init__(self, graph: gs.Graph, node: gs.Node, layer: DeformNode) -> None:
        self.layer = layer
        self._graph = graph
        self._prefix = node.name or node.outputs[0].name
        self._taken = {*graph.tensors(), *(other.name for other in graph.nodes)}

    def bias(self) -> gs.Tensor:
        """Return the bias [O], zeros where there is none."""
        if self.layer.bias is not None:
            return self.layer.bias
        return self.constant("bias", np.zeros(self.layer.filters, self.layer.dtype))

    def mask(self) -> gs.Tensor:
        """Return the mask [N, G kh kw, oh, ow], ones where there is none."""
        layer = self.layer
        if layer.mask is not None:
            return layer.mask
        channels = layer.offset_group * layer.taps
        batch, (height, width) = (layer.offset.shape or [None])[0], layer.output_size
        if isinstance(batch, int | np.integer) and height is not None and width is not None:
            return self.constant("mask", np.ones((int(batch), channels, height, width), layer.dtype))
        extents = [batch, channels, *(layer.offset.shape[2:] if layer.offset.shape else (height, width))]
        size = self.add("Shape", "mask.size", layer.offset, dtype=np.int64)
        parts = [self.add("Gather", f"mask.size.{axis}", size, np.array([axis]), dtype=np.int64) for axis in (0, 2, 3)]
        shape = self.add("Concat", "mask.shape", parts[0], np.array([channels]), *parts[1:], dtype=np.int64, axis=0)
        one = np.ones((1, channels, 1, 1), layer.dtype)
        return self.add("Expand", "mask", one, shape, dtype=layer.dtype, shape=extents)

    def add(
        self, op: str, role: str, *inputs: gs.Tensor | np.ndarray, dtype: Any, shape: Any = None, **attributes: Any
    ) -> gs.Variable:
        """Append a node and return its output, of this type and shape; arrays become constants."""
        import onnx_graphsurgeon as gs

        name = self.unused(role)
        tensors = [
            self.constant(f"{role}.constant", value) if isinstance(value, np.ndarray) else value for value in inputs
        ]
        output = gs.Variable(name, dtype, shape)
        self._graph.nodes.append(gs.Node(op, name, attributes, tensors, [output]))
        return output

    def constant(self, role: str, values: np.ndarray) -> gs.Constant:
        """Return a constant."""
        import onnx_graphsurgeon as gs

        return gs.Constant(self.unused(role), values)

    def unused(self, role: str) -> str:
        """Return a name that the graph does not have yet."""
        name = f"{self._prefix}.{role}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
