"""A graph taken apart: its nodes, constants and types, and small models of a few of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from convkit.graph import read_names

if TYPE_CHECKING:
    import onnx

__all__ = ["FLOATING", "GraphParts"]

_SMALL = 1024
"""Numbers in a constant that may matter for the types and shapes of others."""
FLOATING = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
"""ONNX's numbers of the floating types that networks compute in."""


@dataclass
class GraphParts:
    """The nodes of a model in order, what they read, and the type of each tensor.

    ``nodes`` are those of the outer graph without Constant nodes; ``constants`` are what these and the initializers
    have, ready to be put into a model; ``types`` the ONNX type number of each tensor, ``makers`` the node that makes it
    (its index). Functions of the model are put in.
    """

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    constant_nodes: dict[str, onnx.NodeProto] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)
    makers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphParts:
        """Return the parts of a model."""
        if model.functions:
            from onnx import inliner

            model = inliner.inline_local_functions(model)
        parts = cls(model)
        parts.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                parts.constant_nodes[node.output[0]] = node
            else:
                parts.makers.update({name: len(parts.nodes) for name in node.output if name})
                parts.nodes.append(node)
        parts.types = _types(model)
        return parts

    @property
    def inputs(self) -> list[str]:
        """The names of the tensors that are fed."""
        return [value.name for value in self.model.graph.input if value.name not in self.constants]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [value.name for value in self.model.graph.output]

    def is_constant(self, name: str) -> bool:
        """Return whether a tensor is a constant of the graph."""
        return name in self.constants or name in self.constant_nodes

    def cut_out(
        self, nodes: Sequence[onnx.NodeProto], inputs: Iterable[str], outputs: Iterable[str]
    ) -> onnx.ModelProto:
        """Return a model of some of the nodes, in their order, with the constants that they read."""
        from onnx import helper

        read = dict.fromkeys(name for node in nodes for name in read_names(node))
        constants = [self.constant_nodes[name] for name in read if name in self.constant_nodes]
        graph = helper.make_graph(
            [*constants, *nodes],
            "part",
            [self._value(name) for name in inputs],
            [self._value(name) for name in outputs],
            [self.constants[name] for name in read if name in self.constants],
        )
        return helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)

    def _value(self, name: str) -> onnx.ValueInfoProto:
        from onnx import TensorProto, helper

        return helper.make_tensor_value_info(name, self.types.get(name, TensorProto.FLOAT), None)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type number of each tensor of the outer graph.

    A result that inference does not know, as of an operator that is not ONNX's, has the type of the first input of its
    node: layers that plugins add compute in the type that they read.
    """
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    large = [tensor for tensor in light.graph.initializer if np.prod(tensor.dims) > _SMALL]
    known = {value.name for value in light.graph.input}
    for tensor in large:
        if tensor.name not in known:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            light.graph.input.append(value)
        light.graph.initializer.remove(tensor)
    graph = onnx.shape_inference.infer_shapes(light).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    table = {value.name: value.type.tensor_type.elem_type for value in values}
    table.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node in graph.node:
        first = next((table[name] for name in node.input if table.get(name)), onnx.TensorProto.FLOAT)
        for name in node.output:
            if name and not table.get(name):
                table[name] = first
    return {name: number for name, number in table.items() if number}
