"""Which types the nodes of a graph compute in, read back from the graph itself, and why some stayed float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convkit.graph import PRECISION_KEY, metadata_of
from convkit.inspection._shapes import infer_shapes
from convkit.inspection._stats import GraphStats

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphPrecision", "graph_precision"]

_FLOATING = ("float16", "bfloat16", "float32", "float64")
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class GraphPrecision:
    """The types of a graph.

    ``nodes`` is the number of nodes by the type of what they compute; a node whose result is no floating number counts
    by what it reads, a product of quantised tensors as ``int8``. Casts between floating types and quantisers compute
    nothing: ``converters`` is their number. ``kept`` has the nodes that stayed float32 when the graph was typed, with
    the reason, ``kinds`` the type of each node that is counted, by its name. ``arithmetic`` and ``weights`` are shares
    by type, empty where a shape is not known or there are none. ``edges`` are the types of inputs and outputs.
    """

    nodes: Mapping[str, int]
    converters: int
    kept: Mapping[str, str]
    arithmetic: Mapping[str, float]
    weights: Mapping[str, float]
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)
    edges: Mapping[str, str] = field(default_factory=dict)

    def share(self, dtypes: Collection[str]) -> float:
        """Return how much of the arithmetic has one of these types; of the nodes, where no arithmetic is counted."""
        if self.arithmetic:
            return sum(share for dtype, share in self.arithmetic.items() if dtype in dtypes)
        total = sum(self.nodes.values())
        return sum(count for dtype, count in self.nodes.items() if dtype in dtypes) / total if total else 0.0

    def to_json(self, asked: str | None) -> dict[str, Any]:
        """Return it as a JSON object; ``asked`` is the precision that was asked for, None where nobody knows."""
        return {
            "asked": asked,
            "nodes": dict(self.nodes),
            "converters": self.converters,
            "kept": list(self.kept),
            "reasons": dict(self.kept),
            "arithmetic": {name: round(share, 4) for name, share in self.arithmetic.items()},
            "weights": {name: round(share, 4) for name, share in self.weights.items()},
            "io": dict(self.edges),
        }


def graph_precision(model: onnx.ModelProto, stats: GraphStats) -> GraphPrecision:
    """Return the types of a model; ``stats`` are its `graph_stats`."""
    _, dtypes = infer_shapes(model, stats.sizes)
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    kinds: dict[str, str] = {}
    counts: Counter[str] = Counter()
    converters = 0
    for node in model.graph.node:
        if node.op_type == "Constant":
            continue
        read = [dtypes[name] for name in node.input if dtypes.get(name) in _FLOATING]
        made = [dtypes[name] for name in node.output if dtypes.get(name) in _FLOATING]
        if node.op_type in _QUANTIZERS or (node.op_type == "Cast" and read and made):
            converters += 1
        elif found := _kind(node, read, made, dequantized):
            counts[found] += 1
            kinds[node.name] = found
    arithmetic: Counter[str] = Counter()
    for cost in stats.costs:
        arithmetic[kinds.get(cost.name, "unknown")] += cost.flops
    return GraphPrecision(
        nodes=dict(counts.most_common()),
        converters=converters,
        kept={node.name: text for node in model.graph.node if (text := metadata_of(node, PRECISION_KEY))},
        arithmetic=_shares(arithmetic),
        weights=_shares(stats.parameter_dtypes),
        kinds=kinds,
        edges={value.name: dtypes.get(value.name, "") for value in (*model.graph.input, *model.graph.output)},
    )


def _kind(node: onnx.NodeProto, read: list[str], made: list[str], dequantized: Collection[str]) -> str:
    """Return the type that a node computes in; empty for one without floating tensors."""
    if len(node.input) > 1 and all(name in dequantized for name in node.input[:2]):
        return "int8"
    return (made or read or [""])[0]


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()} if total else {}
