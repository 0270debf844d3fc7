"""An ONNX graph that is to be changed: look-ups by name, constants by value, small surgery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["STANDARD", "WEIGHTED", "Change", "Graph", "Spot"]

STANDARD = ("", "ai.onnx")
WEIGHTED = ("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul")
"""Operators whose second input is a weight where it is a constant."""
FLOATING = frozenset({"float16", "bfloat16", "float32", "float64"})

Change = Callable[["Graph"], None]
"""Changes a copy of the graph in place."""


class Spot:
    """A place of a graph, in words, and what would be changed there."""

    def __init__(self, where: str, change: Change) -> None:
        self.where, self.change = where, change


class Graph:
    """A model of which a copy is changed; nodes are found again in a copy by their position."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = model.graph.node
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.domain in STANDARD:
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self._constants[node.output[0]] = attribute.t

    @property
    def inputs(self) -> list[str]:
        """The names of the inputs."""
        return [value.name for value in self.model.graph.input if value.name not in self._constants]

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        return [value.name for value in self.model.graph.output]

    def changed(self, change: Change) -> onnx.ModelProto:
        """Return a changed copy of the model, without shapes that may hold no longer."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        graph = Graph(copy)
        change(graph)
        del copy.graph.value_info[:]
        return copy

    def of(self, *types: str) -> Iterator[onnx.NodeProto]:
        """Yield the standard nodes of these types, in order."""
        for node in self.nodes:
            if node.op_type in types and node.domain in STANDARD:
                yield node

    def at(self, node: onnx.NodeProto, change: Callable[[Graph, onnx.NodeProto], None], detail: str = "") -> Spot:
        """Return a change of the node that takes the place of ``node`` in a copy."""
        index = next(number for number, other in enumerate(self.nodes) if other is node)
        where = f"{node.op_type} {node.name or node.output[0]}" + (f", {detail}" if detail else "")
        return Spot(where, lambda copy: change(copy, copy.nodes[index]))

    def is_constant(self, name: str) -> bool:
        """Return whether a value is a constant."""
        return name in self._constants

    def constant(self, name: str) -> np.ndarray:
        """Return a copy of a constant."""
        return np.array(numpy_helper.to_array(self._constants[name]))

    def floating(self, name: str) -> bool:
        """Return whether a value is a constant of floating point numbers."""
        return name in self._constants and str(numpy_helper.to_array(self._constants[name]).dtype) in FLOATING

    def replace(self, name: str, value: np.ndarray) -> None:
        """Give a constant another value in its own dtype; one that several nodes share changes for all."""
        old = self._constants[name]
        dtype = numpy_helper.to_array(old).dtype
        old.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value).astype(dtype), old.name))

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant and return its name."""
        self.model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        self._constants[name] = self.model.graph.initializer[-1]
        return name

    def weighted(self, *types: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes whose second input is a constant weight of at least two axes, in order."""
        for node in self.of(*(types or WEIGHTED)):
            if len(node.input) > 1 and self.floating(node.input[1]) and self.constant(node.input[1]).ndim >= 2:
                yield node

    def bias(self, node: onnx.NodeProto) -> str:
        """Return the name of the constant bias of a layer, or an empty string."""
        index = 3 if node.op_type == "DeformConv" else 2
        name = node.input[index] if node.op_type != "MatMul" and len(node.input) > index else ""
        return name if name and self.floating(name) else ""

    def dtype_near(self, node: onnx.NodeProto) -> str:
        """Return the floating type of the weights before a node; an empty string where there are none."""
        seen: set[str] = set()
        queue = list(node.input)
        while queue:
            name = queue.pop(0)
            if name in seen:
                continue
            seen.add(name)
            source = self.producer(name)
            if source is None:
                continue
            if source.op_type == "Cast":
                return ""
            found = next((str(self.constant(each).dtype) for each in source.input if self.floating(each)), "")
            if found:
                return found
            queue += list(source.input)
        return ""

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a value."""
        return next((node for node in self.nodes if name in node.output), None)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a value."""
        return [node for node in self.nodes if name in node.input]

    def reads(self, old: str, new: str) -> None:
        """Let all nodes that read ``old`` read ``new``."""
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]

    def bypass(self, node: onnx.NodeProto) -> None:
        """Take a node out: what read its output reads its first input."""
        kept, output = node.input[0], node.output[0]
        if output in self.outputs:
            node.CopyFrom(helper.make_node("Identity", [kept], [output], name=node.name))
            return
        self.nodes.remove(node)
        self.reads(output, kept)

    def after(self, name: str, *types: tuple[str, Sequence[str]]) -> None:
        """Insert a chain of nodes behind a value; each is a type and the names of its further inputs.

        The result of the chain takes the name of the value, and so its place.
        """
        inner = f"{name}/before"
        producer = self.producer(name)
        assert producer is not None
        position = list(self.nodes).index(producer) + 1
        producer.output[:] = [inner if output == name else output for output in producer.output]
        for number, (kind, further) in enumerate(types):
            source = inner if number == 0 else f"{inner}/{number}"
            target = name if number == len(types) - 1 else f"{inner}/{number + 1}"
            node = helper.make_node(kind, [source, *further], [target], name=f"{target}/planted/{number}")
            self.nodes.insert(position + number, node)

    def before(self, name: str, nodes: Sequence[onnx.NodeProto], result: str) -> None:
        """Insert nodes that compute ``result`` from the graph input ``name``, and let all others read that."""
        self.reads(name, result)
        for node in reversed(nodes):
            self.nodes.insert(0, node)

    def attribute(self, node: onnx.NodeProto, name: str, default: object = None) -> object:
        """Return an attribute of a node, ``default`` where it has none."""
        for attribute in node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def set_attribute(self, node: onnx.NodeProto, name: str, value: object) -> None:
        """Set an attribute of a node."""
        for attribute in list(node.attribute):
            if attribute.name == name:
                node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute(name, value))

    def ints(self, node: onnx.NodeProto, name: str, default: Sequence[int]) -> list[int]:
        """Return an attribute that is a list of integers."""
        found = self.attribute(node, name)
        return [int(item) for item in found] if isinstance(found, list) else list(default)
