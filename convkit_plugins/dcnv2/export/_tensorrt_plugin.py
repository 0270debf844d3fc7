"""The rewrite ``dcnv2.tensorrt-plugin``: a DeformConv becomes the node of a plugin, with packed weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import NoMatch
from convkit_plugins.dcnv2.cuda import Layer, tensor_serves
from convkit_plugins.dcnv2.export._chosen import ChosenRewrite
from convkit_plugins.dcnv2.export._complete import Inputs
from convkit_plugins.dcnv2.export._deform_node import DeformNode, read_deform_conv
from convkit_plugins.dcnv2.tensorrt import DOMAIN, OP_TYPE, AotSettings, WeightOrder, local_gpu, pack

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["TensorRTPluginNode", "plugin_rewrite"]

_TENSOR_CORES = 80
"""The oldest compute capability that ``tensor.cu`` is for."""


class TensorRTPluginNode(ChosenRewrite):
    """Replace DeformConv by ``convkit::DCNv2``, whose weights are packed in the graph as the kernel reads them.

    A Sigmoid before the mask and a Relu behind the layer, which nothing else reads, become part of it. float32 is
    computed in full precision; with ``tf32`` on the tensor cores, which round to 10 bits. ``capability`` is the compute
    capability of the GPU, None for any of 8.0 and newer.
    """

    name = "dcnv2.tensorrt-plugin"
    reason = "one kernel computes the layer, its code is in the plan, and coordinates and sums are float32"
    way = "plugin"
    instead = "--set dcn=gather"

    def __init__(self, capability: int | None = None, *, tf32: bool = False) -> None:
        self.capability = capability
        self.tf32 = tf32

    def match(self, graph: gs.Graph, node: gs.Node) -> DeformNode | NoMatch | None:
        """Match an ungrouped DeformConv with fixed weights."""
        layer = read_deform_conv(node)
        if layer is None or isinstance(layer, NoMatch):
            return layer
        if layer.group != 1:
            return NoMatch(f"it is a grouped convolution (group={layer.group}), which the kernels lack")
        if not hasattr(layer.weight, "values"):
            return NoMatch(f"its weight {layer.weight.name} is computed by the graph, and the plugin wants it packed")
        if layer.channels % layer.offset_group:
            return NoMatch(f"{layer.channels} channels cannot be divided into {layer.offset_group} offset groups")
        return layer

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: DeformNode) -> None:
        """Put the plugin's node in the place of the node, and of Sigmoid and Relu around it."""
        import onnx_graphsurgeon as gs

        inputs = Inputs(graph, node, match)
        mask = inputs.mask()
        logits = [before.inputs[0] for before in mask.inputs if before.op == "Sigmoid"]
        relu = _only_relu(graph, node)
        settings = AotSettings(
            Layer(match.filters, match.kernel, match.stride, match.pad, match.dilation, match.offset_group),
            match.channels,
            self._order(match),
            bool(logits),
            relu is not None,
        )
        weight = inputs.constant("weight", pack(np.asarray(match.weight.values), settings))
        tensors = [match.x, match.offset, *(logits or [mask]), weight, inputs.bias()]
        last = node if relu is None else relu
        outputs = list(last.outputs)
        for old in {id(each): each for each in (node, last)}.values():
            old.inputs.clear()
            old.outputs.clear()
        attributes: dict[str, Any] = {
            **settings.to_fields(),
            "plugin_namespace": DOMAIN,
            "plugin_version": "1",
            "aot": 1,
        }
        graph.nodes.append(gs.Node(OP_TYPE, node.name, attributes, tensors, outputs, domain=DOMAIN))

    def _order(self, layer: DeformNode) -> WeightOrder:
        """Return the order of the weights for the faster kernel that serves a layer."""
        wide = layer.dtype.itemsize == 4
        height, width = (2 if size is None else size for size in layer.input_size)
        served = tensor_serves(
            Layer(layer.filters, layer.kernel, layer.stride, layer.pad, layer.dilation, layer.offset_group),
            "float32" if wide else "float16",
            (1, layer.channels, height, width),
        )
        if not served or (wide and not self.tf32) or (self.capability or _TENSOR_CORES) < _TENSOR_CORES:
            return WeightOrder.PLAIN
        return WeightOrder.TENSOR_TF32 if wide else WeightOrder.TENSOR_16


def plugin_rewrite() -> TensorRTPluginNode:
    """Return the rewrite for the GPU of this machine, on which TensorRT builds."""
    return TensorRTPluginNode(local_gpu()[0])


def _only_relu(graph: gs.Graph, node: gs.Node) -> gs.Node | None:
    """Return the Relu that alone reads the result of a node."""
    (output,) = node.outputs
    readers = output.outputs
    if len(readers) != 1 or readers[0].op != "Relu" or any(output is result for result in graph.outputs):
        return None
    return readers[0]
