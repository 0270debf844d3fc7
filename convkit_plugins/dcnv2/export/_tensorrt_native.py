"""The rewrite ``dcnv2.native``: a DeformConv as TensorRT's own plugin computes it rightly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convkit import NoMatch
from convkit.graph import PRECISION_KEY, annotate
from convkit_plugins.dcnv2.export._chosen import ChosenRewrite
from convkit_plugins.dcnv2.export._complete import Inputs
from convkit_plugins.dcnv2.export._deform_node import DeformNode, read_deform_conv

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["TensorRTNative"]

_REASON = "TensorRT's own DeformConv rounds sampling positions to its type"


class TensorRTNative(ChosenRewrite):
    """Keep DeformConv in float32, with casts around it in a 16-bit graph, and with all five inputs.

    TensorRT's own plugin rounds sampling positions to the type of the layer, exchanges vertical and horizontal
    settings, sizes its workspace without regard to dynamic heights and widths, and makes masks of a wrong shape.
    """

    name = "dcnv2.native"
    reason = "TensorRT's own plugin computes DeformConv rightly in float32, with all inputs"
    way = "native"
    instead = "--set dcn=plugin or --set dcn=gather"

    def match(self, graph: gs.Graph, node: gs.Node) -> DeformNode | NoMatch | None:
        """Match a DeformConv that TensorRT can compute rightly but not as it is; None where it can as it is."""
        layer = read_deform_conv(node)
        if layer is None or isinstance(layer, NoMatch):
            return layer
        top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
        if (top, left) != (bottom, right):
            return NoMatch(f"it pads ({top}, {left}) pixels before and ({bottom}, {right}) after the image")
        pairs = {"stride": layer.stride, "padding": layer.pad, "dilation": layer.dilation}
        for name, (vertical, horizontal) in pairs.items():
            if vertical != horizontal:
                return NoMatch(
                    f"its {name} is {vertical} vertically and {horizontal} horizontally: TensorRT swaps them"
                )
        if None in layer.input_size or None in layer.output_size:
            return NoMatch("its height or width is dynamic, and TensorRT sizes its workspace without them")
        complete = layer.bias is not None and layer.mask is not None
        return None if complete and layer.dtype == np.float32 else layer

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: DeformNode) -> None:
        """Complete the inputs, and put casts around the node."""
        import onnx_graphsurgeon as gs

        inputs = Inputs(graph, node, match)
        tensors = [match.x, match.weight, match.offset, inputs.bias(), inputs.mask()]
        if match.dtype == np.float32:
            node.inputs = tensors
            return
        roles = ("x", "weight", "offset", "bias", "mask")
        node.inputs = [
            inputs.constant(f"{role}.float32", np.asarray(tensor.values).astype(np.float32))
            if isinstance(tensor, gs.Constant)
            else inputs.add("Cast", f"{role}.float32", tensor, dtype=np.float32, shape=tensor.shape, to=np.float32)
            for role, tensor in zip(roles, tensors, strict=True)
        ]
        (output,) = node.outputs
        wide = gs.Variable(inputs.unused("float32"), np.float32, output.shape)
        node.outputs = [wide]
        annotate(node, PRECISION_KEY, _REASON)
        narrow = gs.Node("Cast", inputs.unused("narrow"), {"to": match.dtype.type}, [wide], [output])
        graph.nodes.append(narrow)
