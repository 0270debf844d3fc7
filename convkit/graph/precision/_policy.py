"""What becomes 16-bit and what stays float32, node by node, with the reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convkit.graph.precision._decisions import POSITIONS, SHAPES, Links, decided_nodes, is_floating, subgraphs
from convkit.graph.precision._types import Positions, element_types, is_float32, narrow_positions
from convkit.graph.precision._unfit import Range, unfit_constant, unfit_scale, unfit_values

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["BY_NAME", "Plan", "plan_types"]

_QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")
_SQUARES = frozenset({"ReduceL2", "ReduceSumSquare"})
BY_NAME = "it is kept by name"


@dataclass
class Plan:
    """The types that a graph gets.

    ``narrow`` has the positions that become 16-bit, by ``id`` of the node; ``kept`` the nodes with float32 tensors that
    stay float32, each with its reason; ``types`` the ONNX type number of each tensor before the change.
    """

    types: Mapping[str, int]
    narrow: dict[int, Positions] = field(default_factory=dict)
    kept: list[tuple[gs.Node, str]] = field(default_factory=list)


def plan_types(
    graph: gs.Graph, narrow: str, keep: Collection[str] = (), ranges: Mapping[str, Range] | None = None
) -> Plan:
    """Decide for every node of the outer graph; ``narrow`` is ``float16`` or ``bfloat16``. Nothing is changed.

    The nodes with the names ``keep`` stay float32, and those whose values on samples, ``ranges`` by name of the tensor,
    do not fit.
    """
    types = element_types(graph)
    plan = Plan(types)
    links = Links(graph)
    decided = decided_nodes(graph, types, links)
    for node in graph.nodes:
        if node.op in SHAPES or node.op in _QUANTIZERS or not _concerned(node, types):
            continue
        found = (
            _kept_by_nature(node, types, links.data)
            or (BY_NAME if node.name in keep else "")
            or decided.get(id(node))
            or (_cast(node, types) if node.op == "Cast" else narrow_positions(node, types, graph.opset, narrow))
        )
        if isinstance(found, Positions):
            found = unfit_constant(node, found, narrow) or unfit_values(node, found, narrow, ranges or {}) or found
        if isinstance(found, Positions):
            plan.narrow[id(node)] = found
        elif found:
            plan.kept.append((node, found))
    _plan_quantizers(graph, plan, links, narrow)
    return plan


def _plan_quantizers(graph: gs.Graph, plan: Plan, links: Links, narrow: str) -> None:
    """Give each DequantizeLinear the type of its readers, and each QuantizeLinear that of the tensor that it reads.

    So no Cast parts them from the nodes that engines fuse them with. A scale that does not fit keeps both float32.
    """
    results = [node for node in graph.nodes if node.op == "DequantizeLinear" and _concerned(node, plan.types)]
    for node in results:
        readers = [reader for reader in links.readers(node.outputs[0]) if reader.op not in _QUANTIZERS]
        alike = all(_reads_narrow(reader, node.outputs[0], plan) for reader in readers)
        if readers and alike and not any(node.outputs[0] is output for output in graph.outputs):
            _plan_quantizer(node, plan, graph.opset, narrow)
    made = {id(tensor) for node in graph.nodes for tensor in _narrow_results(node, plan)}
    for node in graph.nodes:
        if node.op == "QuantizeLinear" and id(node.inputs[0]) in made:
            _plan_quantizer(node, plan, graph.opset, narrow)


def _plan_quantizer(node: gs.Node, plan: Plan, opset: int, narrow: str) -> None:
    import onnx_graphsurgeon as gs

    scale = node.inputs[1]
    found = narrow_positions(node, plan.types, opset, narrow)
    if isinstance(found, Positions) and not (isinstance(scale, gs.Constant) and unfit_scale(scale.values, narrow)):
        plan.narrow[id(node)] = found


def _reads_narrow(reader: gs.Node, tensor: gs.Tensor, plan: Plan) -> bool:
    positions = plan.narrow.get(id(reader), Positions()).inputs
    return all(place in positions for place, other in enumerate(reader.inputs) if other is tensor)


def _narrow_results(node: gs.Node, plan: Plan) -> list[gs.Tensor]:
    return [node.outputs[place] for place in plan.narrow.get(id(node), Positions()).outputs]


def _concerned(node: gs.Node, types: Mapping[str, int]) -> bool:
    """Return whether a node has float32 tensors, or one of an unknown type, and no 16-bit result already."""
    import onnx

    if any(types.get(tensor.name) in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16) for tensor in node.outputs):
        return False
    tensors = [*node.inputs, *node.outputs]
    return any(is_float32(types, tensor) or _unknown(types, tensor) for tensor in tensors) or bool(subgraphs(node))


def _unknown(types: Mapping[str, int], tensor: gs.Tensor) -> bool:
    return bool(tensor.name) and tensor.name not in types


def _kept_by_nature(node: gs.Node, types: Mapping[str, int], data: set[str]) -> str:
    """Return why a node stays float32 wherever it stands, or an empty string."""
    if subgraphs(node):
        return "it contains a graph of its own"
    unknown = next((tensor.name for tensor in (*node.inputs, *node.outputs) if _unknown(types, tensor)), None)
    if unknown is not None:
        return f"the type of {unknown!r} is not known"
    if node.op == "BitCast":
        return "it reads the bits of its input"
    if node.op == "MeanVarianceNormalization":
        return "the standard defines it by a sum with a float32 number"
    if node.op in POSITIONS:
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
    if is_floating(source):
        return None
    return "its whole numbers are more than 16 bits can tell apart"
