"""What depends on what in a graph: which nodes decide, what leads to a decision and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from convkit.graph.precision._types import is_float32

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = [
    "POSITIONS", "SHAPES", "WITH_WEIGHTS", "Links", "after", "before", "decided_nodes", "decisions", "is_floating",
    "subgraphs",
]  # fmt: skip

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv"})
WITH_WEIGHTS = CONVOLUTIONS | {"Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
_DECISIONS = frozenset({
    "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Hardmax", "Less", "LessOrEqual", "NonMaxSuppression",
    "NonZero", "TopK", "Unique",
})  # fmt: skip
POSITIONS = {"GridSample": 1, "RoiAlign": 1}
"""Operators that sample at positions, with the input that these are."""
SHAPES = frozenset({"Shape", "Size"})
"""Operators that read the shape of a tensor, whatever its type and values."""


def subgraphs(node: gs.Node) -> list[gs.Graph]:
    """Return the graphs inside of a node, at any depth."""
    return list(node.subgraphs(recursive=True))


def is_floating(number: int) -> bool:
    """Return whether an ONNX type number is that of floating values."""
    import onnx

    kinds = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    return number in [getattr(onnx.TensorProto, kind) for kind in kinds]


class Links:
    """Who reads which tensor, graphs inside of nodes included; and which tensors depend on the graph's inputs."""

    def __init__(self, graph: gs.Graph) -> None:
        self._readers: dict[int, list[gs.Node]] = {}
        for node in graph.nodes:
            inner = (tensor for part in subgraphs(node) for other in part.nodes for tensor in other.inputs)
            for key in {id(tensor) for tensor in (*node.inputs, *inner)}:
                self._readers.setdefault(key, []).append(node)
        self.data = self._dependent(graph)

    def readers(self, tensor: gs.Tensor) -> list[gs.Node]:
        """Return the nodes of the outer graph that read a tensor."""
        return self._readers.get(id(tensor), [])

    def _dependent(self, graph: gs.Graph) -> set[str]:
        """Return the names of the tensors whose values depend on the inputs, not only on their shapes."""
        found = {tensor.name for tensor in graph.inputs}
        waiting = list(graph.inputs)
        while waiting:
            for node in self.readers(waiting.pop()):
                if node.op not in SHAPES:
                    new = [tensor for tensor in node.outputs if tensor.name not in found]
                    found.update(tensor.name for tensor in new)
                    waiting += new
        return found


def decided_nodes(graph: gs.Graph, types: Mapping[str, int], links: Links) -> dict[int, str]:
    """Return the nodes that decide, what follows from a decision and what leads to it, by ``id``, with the reason."""
    reasons: dict[int, str] = {}
    found = decisions(graph, types, links)
    for node in found:
        reasons[id(node)] = "it decides: rounding would make equal what is not"
    for node in found:
        for other in before(node.inputs, types, links.data):
            reasons.setdefault(id(other), f"{node.op} {node.name!r} decides on its result")
        for other in after(node, links):
            reasons.setdefault(id(other), f"it follows from the decision of {node.op} {node.name!r}")
    for node in sorted(graph.nodes, key=_name):
        if node.op in POSITIONS:
            for other in before([node.inputs[POSITIONS[node.op]]], types, links.data):
                if other.op not in WITH_WEIGHTS:
                    reasons.setdefault(id(other), f"{node.op} {node.name!r} samples at its result")
    return reasons


def decisions(graph: gs.Graph, types: Mapping[str, int], links: Links) -> list[gs.Node]:
    """Return the nodes that turn floating values of the network into choices, in the order of their names."""
    found = [node for node in graph.nodes if _decides(node, types, links.data)]
    return sorted(found, key=_name)


def _name(node: gs.Node) -> tuple[str, str]:
    return node.name, node.outputs[0].name if node.outputs else ""


def _decides(node: gs.Node, types: Mapping[str, int], data: set[str]) -> bool:
    if not any(is_float32(types, tensor) and tensor.name in data for tensor in node.inputs):
        return False
    if node.op == "Cast":
        return not is_floating(types.get(node.outputs[0].name, 0))
    return node.op in _DECISIONS


def before(tensors: Sequence[gs.Tensor], types: Mapping[str, int], data: set[str]) -> Iterator[gs.Node]:
    """Yield the nodes that floating tensors come from, back to the operators with weights and these among them."""
    seen: set[int] = set()
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        for other in tensor.inputs if tensor.name in data and is_float32(types, tensor) else ():
            if id(other) not in seen:
                seen.add(id(other))
                yield other
                if other.op not in WITH_WEIGHTS:
                    waiting += other.inputs


def after(node: gs.Node, links: Links) -> Iterator[gs.Node]:
    """Yield what follows from a decision, up to the convolutions and shapes that read it."""
    seen: set[int] = set()
    waiting = list(node.outputs)
    while waiting:
        for other in links.readers(waiting.pop()):
            if id(other) not in seen and other.op not in CONVOLUTIONS | SHAPES:
                seen.add(id(other))
                yield other
                waiting += list(other.outputs)
