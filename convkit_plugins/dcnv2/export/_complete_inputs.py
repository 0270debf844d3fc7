"""The rewrite ``dcnv2.complete-inputs``: a DeformConv gets the inputs that it leaves out by an empty name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convkit import NodeRewrite, NoMatch
from convkit_plugins.dcnv2.export._deform_node import DeformNode, read_deform_conv

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["CompleteInputs"]

_BIAS = 3


class CompleteInputs(NodeRewrite):
    """Give DeformConv a bias of zeros where it has a mask and no bias, and drop empty names at the end of its inputs.

    NVIDIA's parser hands an input with an empty name to a plugin as none, and refuses the node for that.
    """

    name = "dcnv2.complete-inputs"
    reason = "the parser of TensorRT-RTX takes no empty inputs of a plugin"
    phase = "target"
    op_types = ("DeformConv",)

    def match(self, graph: gs.Graph, node: gs.Node) -> DeformNode | NoMatch | None:
        """Match a float32 or float16 DeformConv with an empty input."""
        if not any(tensor.is_empty() for tensor in node.inputs):
            return None
        return read_deform_conv(node)

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: DeformNode) -> None:
        """Change the inputs of the node."""
        import onnx_graphsurgeon as gs

        while node.inputs[-1].is_empty():
            del node.inputs[-1]
        if len(node.inputs) > _BIAS and node.inputs[_BIAS].is_empty():
            name = f"{node.name or match.weight.name}.zero_bias"
            taken = graph.tensors()
            while name in taken:
                name += "_"
            node.inputs[_BIAS] = gs.Constant(name, np.zeros(match.filters, match.dtype))
