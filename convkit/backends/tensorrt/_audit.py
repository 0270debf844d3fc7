"""The precision audit: which layers compute in 16 bits, which in float32, and which of these nobody asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork
from convkit.graph import PRECISION_KEY, all_graphs, metadata_of

if TYPE_CHECKING:
    import onnx

__all__ = ["Audit", "FloatLayer", "audit"]

_NAMES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "FP8": "fp8", "FP4": "fp4"}
_NARROW = ("FLOAT16", "BFLOAT16")
_WIDE = ("FLOAT", "DOUBLE")
_DATA_ALONE = frozenset({"Resize", "Upsample"})
"""Operators whose further inputs are float32 by the standard, whatever they are applied to."""
_UNSAID = "the graph has it in float32"


@dataclass(frozen=True)
class FloatLayer:
    """A float32 layer, the ONNX node that it was made of, and why that is float32."""

    layer: str
    type: str
    node: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.type} layer {self.layer!r}{f' of node {self.node!r}' if self.node else ''}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"layer": self.layer, "type": self.type, "node": self.node, "reason": self.reason}


@dataclass(frozen=True)
class Audit:
    """The floating layers of a network that was parsed from a graph with 16-bit tensors; casts and constants left out.

    ``counts`` has the layers of each precision; ``kept`` are float32 layers of nodes that are float32 in the graph,
    ``silent`` those of nodes whose tensors are all 16-bit.
    """

    asked: tuple[str, ...]
    counts: Mapping[str, int]
    kept: tuple[FloatLayer, ...]
    silent: tuple[FloatLayer, ...]

    def __str__(self) -> str:
        total = sum(self.counts.values())
        parts = [f"{self.counts.get(name, 0)} of {total} layers {name}" for name in self.asked]
        parts += [f"{len(self.kept)} fp32 by policy"] if self.kept else []
        parts += [f"{len(self.silent)} fp32 that nobody asked for"] if self.silent else []
        return f"{' and '.join(self.asked)} asked: {', '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the float32 layers as a JSON object."""
        return {
            "asked": list(self.asked),
            "layers": dict(self.counts),
            "kept": [layer.to_json() for layer in self.kept],
            "silent": [layer.to_json() for layer in self.silent],
        }


def audit(network: ParsedNetwork, model: onnx.ModelProto) -> Audit | None:
    """Compare the types of the layers with those of the nodes that they were made of.

    Returns None for a model without 16-bit tensors. Layers that the parser adds without naming a node, such as those
    that stretch an operand, belong to the node of the layer that reads them.
    """
    types = _types(model)
    asked = tuple(_NAMES[{"FLOAT16": "HALF", "BFLOAT16": "BF16"}[kind]] for kind in _NARROW if kind in types.values())
    if not asked:
        return None
    wants, reasons = _wishes(model, types)
    nodes = _nodes_of(network)
    counts: Counter[str] = Counter()
    kept: list[FloatLayer] = []
    silent: list[FloatLayer] = []
    for dtype, layers in network.floating_layers().items():
        for layer in layers:
            if layer.type == "CAST":
                continue
            counts[_NAMES[dtype]] += 1
            if dtype == "FLOAT":
                node = nodes[layer.index]
                found = FloatLayer(layer.name, layer.type, node, reasons.get(node, "") or _UNSAID)
                (kept if wants.get(node, True) else silent).append(found)
    return Audit(asked, counts, tuple(kept), tuple(silent))


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Return the name of the ONNX type of every tensor that is known, in graphs inside of nodes as well."""
    import onnx

    table: dict[str, str] = {}
    for graph in all_graphs(onnx.shape_inference.infer_shapes(model).graph):
        values = (*graph.input, *graph.output, *graph.value_info)
        numbers = {value.name: value.type.tensor_type.elem_type for value in values}
        numbers |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        table |= {name: onnx.TensorProto.DataType.Name(number) for name, number in numbers.items() if number}
    return table


def _wishes(model: onnx.ModelProto, types: Mapping[str, str]) -> tuple[dict[str, bool], dict[str, str]]:
    """Return by name which nodes have float32 tensors or such of an unknown type, and what their metadata says."""
    wants: dict[str, bool] = {}
    reasons: dict[str, str] = {}
    for graph in all_graphs(model.graph):
        for node in graph.node:
            names = [*(node.input[:1] if node.op_type in _DATA_ALONE else node.input), *node.output]
            kinds = [types.get(name) for name in names if name]
            wide = any(kind is None or kind in _WIDE for kind in kinds) or not any(kind in _NARROW for kind in kinds)
            wants[node.name] = wants.get(node.name, False) or wide
            reasons[node.name] = metadata_of(node, PRECISION_KEY)
    return wants, reasons


def _nodes_of(network: ParsedNetwork) -> dict[int, str]:
    """Return the node of each layer by the layer's index."""
    readers: dict[int, list[ParsedLayer]] = {}
    for layer in network.layers:
        for tensor in layer.inputs:
            if tensor is not None:
                readers.setdefault(tensor, []).append(layer)

    def node(layer: ParsedLayer, depth: int = 8) -> str:
        if layer.node or not depth:
            return layer.node
        behind = (reader for tensor in layer.outputs for reader in readers.get(tensor, ()))
        return next(filter(None, (node(reader, depth - 1) for reader in behind)), "")

    return {layer.index: node(layer) for layer in network.layers}
