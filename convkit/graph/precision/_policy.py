"""What becomes 16-bit and what stays float32, node by node, with the reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from convkit.graph.precision._types import Positions, element_types, is_float32, narrow_positions

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Plan", "plan_types"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv"})
_WITH_WEIGHTS = _CONVOLUTIONS | {"Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
_DECISIONS = frozenset({
    "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Hardmax", "Less", "LessOrEqual", "NonMaxSuppression",
    "NonZero", "TopK", "Unique",
})  # fmt: skip
_POSITIONS = {"GridSample": 1, "RoiAlign": 1}
"""Operators that sample at positions, with the input that these are."""
_SQUARES = frozenset({"ReduceL2", "ReduceSumSquare"})
_LARGEST = {"float16": 65504.0, "bfloat16": 2.0**127 * (2 - 2.0**-7)}
_BY_NAME = "it is kept by name"
_SHAPES = frozenset({"Shape", "Size"})
"""Operators that read the shape of a tensor, whatever its type and values."""


@dataclass
class Plan:
    """The types that a graph gets.

    ``narrow`` has the positions that become 16-bit, by ``id`` of the node; ``kept`` the nodes with float32 tensors that
    stay float32, each with its reason; ``types`` the ONNX type number of each tensor before the change.
    """

    types: Mapping[str, int]
    narrow: dict[int, Positions] = field(default_factory=dict)
    kept: list[tuple[gs.Node, str]] = field(default_factory=list)


def plan_types(graph: gs.Graph, narrow: str, keep: Collection[str] = ()) -> Plan:
    """Decide for every node of the outer graph; ``narrow`` is ``float16`` or ``bfloat16``. Nothing is changed.

    The nodes with these names (``keep``) stay float32.
    """
    types = element_types(graph)
    plan = Plan(types)
    links = _Links(graph)
    decided = _decided(graph, types, links)
    for node in graph.nodes:
        if node.op in _SHAPES or not _concerned(node, types):
            continue
        found = (
            _kept_by_nature(node, types, links.data)
            or (_BY_NAME if node.name in keep else "")
            or decided.get(id(node))
            or (_cast(node, types) if node.op == "Cast" else narrow_positions(node, types, graph.opset, narrow))
        )
        if isinstance(found, Positions):
            found = _unfit_constant(node, found, narrow) or found
        if isinstance(found, Positions):
            plan.narrow[id(node)] = found
        elif found:
            plan.kept.append((node, found))
    return plan


def _concerned(node: gs.Node, types: Mapping[str, int]) -> bool:
    """Return whether a node has float32 tensors, or one of an unknown type, and no 16-bit result already."""
    import onnx

    if any(types.get(tensor.name) in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16) for tensor in node.outputs):
        return False
    tensors = [*node.inputs, *node.outputs]
    return any(is_float32(types, tensor) or _unknown(types, tensor) for tensor in tensors) or bool(_subgraphs(node))


def _unknown(types: Mapping[str, int], tensor: gs.Tensor) -> bool:
    return bool(tensor.name) and tensor.name not in types


def _subgraphs(node: gs.Node) -> list[gs.Graph]:
    return list(node.subgraphs(recursive=True))


def _kept_by_nature(node: gs.Node, types: Mapping[str, int], data: set[str]) -> str:
    """Return why a node stays float32 wherever it stands, or an empty string."""
    if _subgraphs(node):
        return "it contains a graph of its own"
    unknown = next((tensor.name for tensor in (*node.inputs, *node.outputs) if _unknown(types, tensor)), None)
    if unknown is not None:
        return f"the type of {unknown!r} is not known"
    if node.op in _POSITIONS:
        return "16 bits would move the positions that it samples"
    if node.op in _SQUARES:
        return "its squares overflow in 16 bits"
    if data.isdisjoint(tensor.name for tensor in node.inputs):
        return "it computes from shapes and constants alone"
    return ""


def _cast(node: gs.Node, types: Mapping[str, int]) -> Positions | str | None:
    """Return the positions of a Cast to float32; None for one between other types, which reads what it gets."""
    import onnx

    source, result = types[node.inputs[0].name], types[node.outputs[0].name]
    if result != onnx.TensorProto.FLOAT:
        return None
    if source in (onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL):
        return Positions((0,) if source == onnx.TensorProto.FLOAT else (), (0,))
    if _floating(source):
        return None
    return "its whole numbers are more than 16 bits can tell apart"


def _floating(number: int) -> bool:
    import onnx

    kinds = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
    return number in [getattr(onnx.TensorProto, kind) for kind in kinds]


class _Links:
    """Who reads which tensor, graphs inside of nodes included; and which tensors depend on the graph's inputs."""

    def __init__(self, graph: gs.Graph) -> None:
        self._readers: dict[int, list[gs.Node]] = {}
        for node in graph.nodes:
            inner = (tensor for part in _subgraphs(node) for other in part.nodes for tensor in other.inputs)
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
                if node.op not in _SHAPES:
                    new = [tensor for tensor in node.outputs if tensor.name not in found]
                    found.update(tensor.name for tensor in new)
                    waiting += new
        return found


def _decided(graph: gs.Graph, types: Mapping[str, int], links: _Links) -> dict[int, str]:
    """Return the nodes that decide, what follows from a decision and what leads to it, by ``id``, with the reason."""
    reasons: dict[int, str] = {}
    decisions = [node for node in graph.nodes if _decides(node, types, links.data)]
    for node in decisions:
        reasons[id(node)] = "it decides: rounding would make equal what is not"
    for node in decisions:
        for other in _before(node.inputs, types, links.data):
            reasons.setdefault(id(other), f"{node.op} {node.name!r} decides on its result")
        for other in _after(node, links):
            reasons.setdefault(id(other), f"it follows from the decision of {node.op} {node.name!r}")
    for node in graph.nodes:
        if node.op in _POSITIONS:
            for other in _before([node.inputs[_POSITIONS[node.op]]], types, links.data):
                if other.op not in _WITH_WEIGHTS:
                    reasons.setdefault(id(other), f"{node.op} {node.name!r} samples at its result")
    return reasons


def _decides(node: gs.Node, types: Mapping[str, int], data: set[str]) -> bool:
    if not any(is_float32(types, tensor) and tensor.name in data for tensor in node.inputs):
        return False
    if node.op == "Cast":
        return not _floating(types.get(node.outputs[0].name, 0))
    return node.op in _DECISIONS


def _before(tensors: Sequence[gs.Tensor], types: Mapping[str, int], data: set[str]) -> Iterator[gs.Node]:
    """Yield the nodes that floating tensors come from, back to the operators with weights and these among them."""
    seen: set[int] = set()
    waiting = list(tensors)
    while waiting:
        tensor = waiting.pop()
        for other in tensor.inputs if tensor.name in data and is_float32(types, tensor) else ():
            if id(other) not in seen:
                seen.add(id(other))
                yield other
                if other.op not in _WITH_WEIGHTS:
                    waiting += other.inputs


def _after(node: gs.Node, links: _Links) -> Iterator[gs.Node]:
    """Yield what follows from a decision, up to the convolutions and shapes that read it."""
    seen: set[int] = set()
    waiting = list(node.outputs)
    while waiting:
        for other in links.readers(waiting.pop()):
            if id(other) not in seen and other.op not in _CONVOLUTIONS | _SHAPES:
                seen.add(id(other))
                yield other
                waiting += list(other.outputs)


def _unfit_constant(node: gs.Node, positions: Positions, narrow: str) -> str:
    """Return why a constant of a node does not fit into 16 bits, or an empty string."""
    import ml_dtypes
    import onnx_graphsurgeon as gs

    dtype = np.dtype(ml_dtypes.bfloat16 if narrow == "bfloat16" else narrow)
    constants = (node.inputs[place] for place in positions.inputs)
    for tensor in constants:
        if not isinstance(tensor, gs.Constant) or not tensor.values.size:
            continue
        values = np.asarray(tensor.values, np.float32)
        magnitude = np.abs(np.where(np.isfinite(values), values, 0))
        largest = magnitude.max()
        with np.errstate(over="ignore", under="ignore"):
            rounded = largest.astype(dtype)
        if not np.isfinite(rounded):
            return f"{tensor.name} has {largest:.6g}, beyond {_LARGEST[narrow]:.6g}"
        if largest and not rounded:
            return f"{tensor.name} has {largest:.3g} at most, which becomes 0"
    return ""
