"""The rewrite ``dcnv2.fold-batchnorm``: fold a BatchNormalization into the DeformConv before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import NodeRewrite, NoMatch

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["FoldBatchNorm"]


@dataclass(frozen=True)
class _Fold:
    """A DeformConv with its constants, and the scale and shift of each output channel in float64."""

    producer: gs.Node
    weight: gs.Constant
    bias: gs.Constant | None
    scale: np.ndarray
    shift: np.ndarray


class FoldBatchNorm(NodeRewrite):
    """Fold inference-mode BatchNormalization into weight and bias, in float64, rounded once.

    The exporter folds it into Conv and ConvTranspose; into DeformConv neither the exporter nor
    ONNX Runtime does.
    """

    name = "dcnv2.fold-batchnorm"
    reason = "saves one pass over the output of every deformable convolution"
    op_types = ("BatchNormalization",)

    def match(self, graph: gs.Graph, node: gs.Node) -> _Fold | NoMatch | None:
        """Match a BatchNormalization whose input comes from a DeformConv and has no other consumer."""
        import onnx_graphsurgeon as gs

        convolved = node.inputs[0]
        if len(convolved.inputs) != 1 or convolved.inputs[0].op != "DeformConv":
            return None
        producer = convolved.inputs[0]
        if node.attrs.get("training_mode", 0) or len(node.outputs) > 1:
            return NoMatch("the BatchNormalization is in training mode: its statistics depend on the input")
        if any(tensor is convolved for tensor in graph.outputs):
            return NoMatch(f"the result of {producer.name} is an output of the graph, too")
        if len(convolved.outputs) != 1:
            return NoMatch(f"the result of {producer.name} has {len(convolved.outputs)} consumers")
        parameters = node.inputs[1:5]
        if not all(isinstance(tensor, gs.Constant) for tensor in parameters):
            return NoMatch("a parameter of the BatchNormalization is computed in the graph")
        weight, bias = producer.inputs[1], _optional_input(producer, 3)
        if not all(isinstance(tensor, gs.Constant) for tensor in (weight, bias) if tensor is not None):
            return NoMatch(f"weight or bias of {producer.name} is computed in the graph")

        gamma, beta, mean, variance = (tensor.values.astype(np.float64) for tensor in parameters)
        scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return _Fold(producer, weight, bias, scale, beta - mean * scale)

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: _Fold) -> None:
        """Give the DeformConv new constants and the output of the BatchNormalization.

        The old constants stay as they are: other nodes may share them.
        """
        import onnx_graphsurgeon as gs

        weight = match.weight.values
        bias = match.shift if match.bias is None else match.bias.values * match.scale + match.shift
        bias_name = f"{match.weight.name}.bias" if match.bias is None else match.bias.name
        folded = {
            1: (match.weight.name, weight * match.scale[:, None, None, None]),
            3: (bias_name, bias),
        }
        inputs = match.producer.inputs
        while len(inputs) <= 3:
            inputs.append(gs.Variable.empty())
        for position, (name, values) in folded.items():
            inputs[position] = gs.Constant(_unused(graph, f"{name}.folded"), values.astype(weight.dtype))
        match.producer.outputs = list(node.outputs)
        node.inputs.clear()
        node.outputs.clear()


def _optional_input(node: gs.Node, position: int) -> Any:
    """Return an input of a node, or None where it is absent or left empty."""
    if position >= len(node.inputs) or node.inputs[position].is_empty():
        return None
    return node.inputs[position]


def _unused(graph: gs.Graph, name: str) -> str:
    """Return ``name``, with a number if the graph has a tensor of that name (two nodes may share a weight)."""
    taken = graph.tensors()
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}.{number}", number + 1
    return candidate
