"""A runner's graph in segments: the nodes between tensors that the reference has as well."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from convkit.bisection._graph import FLOATING, GraphParts
from convkit.graph import read_names

if TYPE_CHECKING:
    import onnx

__all__ = ["Segment", "segments_of"]

UNITS = {1: 2.0**-24, 10: 2.0**-11, 11: 2.0**-53, 16: 2.0**-8}
"""What a type rounds away of a number at most, relative."""
_QUANTISED = 2.0**-8
"""The same of 8-bit integers, relative to the largest number of the scale."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Nodes of a runner's graph that make some tensors of the reference's from others.

    ``inputs`` and ``outputs`` are names in the runner's graph with the name that the same tensor has in the reference's
    graph; `model` computes one from the other. ``unit`` is what the coarsest type among its tensors rounds away,
    ``dtype`` that type's name. ``measured`` are the outputs whose errors say something of these nodes.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    measured: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]
    parts: GraphParts = field(repr=False)
    unit: float
    dtype: str

    def model(self) -> onnx.ModelProto:
        """Return the model of these nodes, made anew each time: kept, they would be the weights once more."""
        return self.parts.cut_out(self.nodes, self.inputs, self.outputs)


def segments_of(parts: GraphParts, reference: GraphParts) -> list[Segment]:
    """Return the segments of a graph, each with the least nodes, in an order in which they can run.

    A 16-bit graph computes an output of the model under another name and casts it: that name then stands for the
    output, too.
    """
    common = {name: name for name in (*parts.makers, *parts.inputs) if name in reference.types}
    common = {name: name for name in common if not reference.is_constant(name) and not parts.is_constant(name)}
    renamed = _renamed(parts, common)
    cuts = common | renamed
    segments = []
    for node in parts.nodes:
        outputs = {name: cuts[name] for name in node.output if name in cuts}
        if outputs:
            segments.append(_segment(parts, node, outputs, cuts, renamed))
    return segments


def _renamed(parts: GraphParts, common: Collection[str]) -> dict[str, str]:
    found = {}
    for node in parts.nodes:
        if node.op_type == "Cast" and node.output[0] in common and node.input[0] not in common:
            source, result = (parts.types.get(name, 0) for name in (node.input[0], node.output[0]))
            if source in FLOATING and result in FLOATING and node.input[0] in parts.makers:
                found[node.input[0]] = node.output[0]
    return found


def _segment(
    parts: GraphParts,
    last: onnx.NodeProto,
    outputs: Mapping[str, str],
    cuts: Mapping[str, str],
    renamed: Mapping[str, str],
) -> Segment:
    """Return the segment that ends in a node: it, and what it needs back to the tensors at which graphs are cut."""
    places = {parts.makers[next(iter(outputs))]}
    inputs: dict[str, str] = {}
    waiting = list(read_names(last))
    while waiting:
        name = waiting.pop()
        if name in cuts:
            inputs[name] = cuts[name]
        elif name in parts.makers and parts.makers[name] not in places:
            places.add(parts.makers[name])
            waiting += read_names(parts.nodes[parts.makers[name]])
    nodes = tuple(parts.nodes[place] for place in sorted(places))
    tensors = {name for node in nodes for name in (*node.output, *read_names(node))}
    number = max((parts.types[name] for name in tensors if parts.types.get(name) in UNITS), key=_unit, default=1)
    quantised = any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)
    unit, dtype = (_QUANTISED, "int8") if quantised else (UNITS[number], FLOATING[number])
    only_casts = all(name in renamed for name in inputs) and all(node.op_type == "Cast" for node in nodes)
    measured = () if only_casts and inputs else tuple(outputs)
    return Segment(inputs, outputs, measured, nodes, parts, unit, dtype)


def _unit(number: int) -> float:
    return UNITS[number]
