"""The rewrites ``graph.edges-fp16`` and ``-bf16``: inputs and outputs of a typed graph become 16-bit."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from convkit.graph._rewrite import Phase, Rewrite
from convkit.graph.precision._names import FreeNames
from convkit.graph.precision._types import element_types

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["NarrowEdges"]

_FLOAT32 = 1
_NUMBERS = {"fp16": 10, "bf16": 16}
"""ONNX's numbers of the types that inputs and outputs can get."""


class NarrowEdges(Rewrite):
    """Give inputs and outputs of a graph the type of ``precision``, those of these ``names`` that are float32.

    A Cast at the edge of a typed graph goes; where the graph computes in float32 there, it gets one.
    """

    name: ClassVar[str] = "graph.edges-16-bit"
    reason: ClassVar[str] = "inputs and outputs of half the size were asked for"
    phase: ClassVar[Phase] = "precision"

    def __init__(self, names: Collection[str], precision: str = "fp16") -> None:
        self.names, self._number = frozenset(names), _NUMBERS[precision]
        self.name = f"graph.edges-{precision}"  # type: ignore[misc]

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Change the types, and count the inputs and outputs that became 16-bit."""
        del near_misses
        edges = _Edges(graph, self._number)
        inputs = [tensor for tensor in graph.inputs if edges.wide(tensor) and tensor.name in self.names]
        outputs = [
            tensor for tensor in graph.outputs if edges.wide(tensor) and tensor.name in self.names and tensor.inputs
        ]
        for tensor in inputs:
            edges.narrow_input(tensor)
        for tensor in outputs:
            edges.narrow_output(tensor)
        graph.cleanup().toposort()
        return len(inputs) + len(outputs)


class _Edges:
    """The inputs and outputs of one graph, and ONNX's number of the type that they get."""

    def __init__(self, graph: gs.Graph, number: int) -> None:
        self.number = number
        self.graph, self.names, self.types = graph, FreeNames(graph), element_types(graph)

    def wide(self, tensor: gs.Tensor) -> bool:
        """Return whether a tensor is float32."""
        return self.types.get(tensor.name) == _FLOAT32

    def narrow_input(self, tensor: gs.Tensor) -> None:
        """Make an input narrow: what casts it to that reads it itself, and others a Cast to float32."""
        readers = list(tensor.outputs)
        tensor.dtype = self.number
        wide: gs.Tensor | None = None
        for node in readers:
            made = node.outputs[0] if node.op == "Cast" and node.attrs["to"] == self.number else None
            if made is not None and not self._is_output(made):
                _replace(made, tensor)
                node.inputs.clear()
                node.outputs.clear()
                continue
            if wide is None:
                wide = self._new(tensor, _FLOAT32)
                self._cast(tensor, wide, _FLOAT32)
            node.inputs = [wide if other is tensor else other for other in node.inputs]

    def narrow_output(self, tensor: gs.Tensor) -> None:
        """Make an output narrow: the value behind its last Cast, or else what a Cast makes of it."""
        (node,) = tensor.inputs
        tensor.dtype = self.number
        source = node.inputs[0]
        last = node.op == "Cast" and not tensor.outputs and self.types.get(source.name) == self.number and source.inputs
        if last and len(source.outputs) == 1 and not self._is_output(source):
            (maker,) = source.inputs
            node.inputs.clear()
            node.outputs.clear()
            maker.outputs = [tensor if other is source else other for other in maker.outputs]
            return
        wide = self._new(tensor, _FLOAT32)
        node.outputs = [wide if other is tensor else other for other in node.outputs]
        _replace(tensor, wide)
        self._cast(wide, tensor, self.number)

    def _is_output(self, tensor: gs.Tensor) -> bool:
        return any(tensor is output for output in self.graph.outputs)

    def _new(self, tensor: gs.Tensor, number: int) -> gs.Tensor:
        import onnx_graphsurgeon as gs

        return gs.Variable(self.names.take(f"{tensor.name}.float32"), number, tensor.shape)

    def _cast(self, source: gs.Tensor, result: gs.Tensor, number: int) -> None:
        import onnx_graphsurgeon as gs

        self.graph.nodes.append(gs.Node("Cast", f"{result.name}/EdgeCast", {"to": number}, [source], [result]))


def _replace(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let what reads one tensor read another."""
    for node in list(old.outputs):
        node.inputs = [new if other is old else other for other in node.inputs]
