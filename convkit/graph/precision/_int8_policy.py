"""What becomes int8 and what does not, with the reason; where activations are quantised, and which share a scale."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from convkit.graph.precision._decisions import POSITIONS, SHAPES, WITH_WEIGHTS, Links, before, decided_nodes
from convkit.graph.precision._types import element_types, is_float32

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Int8Plan", "plan_int8", "weight_axis"]

_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators with int8 kernels in the engines."""
_SAMPLERS: Mapping[str, tuple[int, ...]] = {**{op: (place,) for op, place in POSITIONS.items()}, "DeformConv": (2, 4)}
"""Operators that sample at positions, with the inputs that say where and how much."""
_PASSING = frozenset({"Clip", "Identity", "LeakyRelu", "Relu"})
"""Activations that an engine computes in the same pass as the sum before them."""
_KERNEL_RANK = 4


@dataclass
class Int8Plan:
    """The nodes that become int8, and the inputs of nodes that are quantised for it.

    ``excluded`` has the other nodes with weights, each with its reason. ``points`` has the readers, as node and
    position, by name of the tensor that they read; ``groups`` the names of tensors that share one scale.
    """

    nodes: list[gs.Node] = field(default_factory=list)
    excluded: list[tuple[gs.Node, str]] = field(default_factory=list)
    points: dict[str, list[tuple[gs.Node, int]]] = field(default_factory=dict)
    groups: list[frozenset[str]] = field(default_factory=list)


def plan_int8(graph: gs.Graph, exclude: Collection[str] = ()) -> Int8Plan:
    """Decide for every node with weights of the outer graph; nothing is changed.

    Besides the inputs of those nodes these are quantised: all inputs of a Concat that such a node reads, with one
    scale; and the shortcut of a sum with such a node's result if the sum is quantised, too, so that an engine computes
    all of it in one pass.
    """
    types = element_types(graph)
    links = Links(graph)
    reasons = _reasons(graph, types, links)
    plan = Int8Plan()
    for node in graph.nodes:
        if node.op not in WITH_WEIGHTS or not any(is_float32(types, tensor) for tensor in node.outputs):
            continue
        reason = "it is excluded by name" if node.name in exclude else reasons.get(id(node)) or _unfit(node, types)
        if reason:
            plan.excluded.append((node, reason))
        else:
            plan.nodes.append(node)
            plan.points.setdefault(node.inputs[0].name, []).append((node, 0))
    quantised = {id(node) for node in plan.nodes}
    _share(graph, plan, links, quantised, types)
    _shortcuts(graph, plan, links, quantised, types)
    return plan


def weight_axis(node: gs.Node) -> int:
    """Return the axis of the weights of a node along which its output channels lie."""
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return 0 if node.op == "Conv" else 1


def _reasons(graph: gs.Graph, types: Mapping[str, int], links: Links) -> dict[int, str]:
    """Return why nodes are sensitive because of where they stand, by ``id``."""
    reasons = dict(decided_nodes(graph, types, links))
    for node in graph.nodes:
        for place in _SAMPLERS.get(node.op, ()):
            if place < len(node.inputs):
                for other in before([node.inputs[place]], types, links.data):
                    reasons.setdefault(id(other), f"{node.op} {node.name!r} samples where its result says")
    for node in graph.nodes:
        if node.op not in WITH_WEIGHTS:
            continue
        if not any(other.op in WITH_WEIGHTS for other in before(node.inputs[:1], types, links.data)):
            reasons.setdefault(id(node), "it is the first layer: it reads the input of the network")
        if _is_last(node, graph, links):
            reasons.setdefault(id(node), "it is the last layer before an output")
    return reasons


def _is_last(node: gs.Node, graph: gs.Graph, links: Links) -> bool:
    """Return whether a node makes an output without another with weights behind it.

    That is so if none follows at all, or if the way to an output joins nothing else, such as a shortcut.
    """
    outputs = {id(tensor) for tensor in graph.outputs}
    seen: set[tuple[int, bool]] = set()
    waiting = [(tensor, False) for tensor in node.outputs]
    followed = False
    while waiting:
        tensor, joined = waiting.pop()
        if id(tensor) in outputs and not joined:
            return True
        for reader in links.readers(tensor):
            if reader.op in WITH_WEIGHTS:
                followed = True
            elif reader.op not in SHAPES:
                now = joined or sum(other.name in links.data for other in reader.inputs) > 1
                if (id(reader), now) not in seen:
                    seen.add((id(reader), now))
                    waiting += [(result, now) for result in reader.outputs]
    return not followed


def _unfit(node: gs.Node, types: Mapping[str, int]) -> str:
    """Return why a node cannot become int8 by what it is, or an empty string."""
    import onnx_graphsurgeon as gs

    if node.op not in _OPERATORS or node.domain not in (None, "", "ai.onnx"):
        return f"engines have no int8 {node.op}"
    if len(node.inputs) < 2 or not isinstance(node.inputs[1], gs.Constant):
        return "its weights are not constant"
    values = node.inputs[1].values
    if values.dtype != np.float32 or not is_float32(types, node.inputs[0]):
        return "its weights or its input are not float32"
    if not values.size or not np.isfinite(values).all():
        return "its weights are not finite"
    if node.op in ("Conv", "ConvTranspose"):
        if values.ndim != _KERNEL_RANK:
            return f"it is {values.ndim - 2}-dimensional"
        if node.op == "ConvTranspose" and node.attrs.get("group", 1) != 1:
            return "it is transposed and grouped: engines disagree about scales of its channels"
    elif values.ndim != 2:
        return "its weights are no matrix"
    elif node.op == "Gemm" and (node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1.0):
        return "it transposes its input or scales the product"
    return ""


def _share(graph: gs.Graph, plan: Int8Plan, links: Links, quantised: Collection[int], types: Mapping[str, int]) -> None:
    """Quantise the inputs of every Concat that an int8 node reads, with the scale of its result."""
    for node in graph.nodes:
        if node.op != "Concat" or not _feeds(node.outputs[0], links, quantised):
            continue
        parts = [(place, tensor) for place, tensor in enumerate(node.inputs) if tensor.name in links.data]
        if len(parts) < len(node.inputs) or not all(is_float32(types, tensor) for _, tensor in parts):
            continue
        for place, tensor in parts:
            plan.points.setdefault(tensor.name, []).append((node, place))
        group = frozenset({node.outputs[0].name, *(tensor.name for _, tensor in parts)})
        touching = [other for other in plan.groups if other & group]
        plan.groups = [other for other in plan.groups if not other & group] + [group.union(*touching)]


def _feeds(tensor: gs.Tensor, links: Links, quantised: Collection[int]) -> bool:
    """Return whether an int8 node reads a tensor as its activation."""
    return any(id(reader) in quantised and reader.inputs[0] is tensor for reader in links.readers(tensor))


def _shortcuts(
    graph: gs.Graph, plan: Int8Plan, links: Links, quantised: Collection[int], types: Mapping[str, int]
) -> None:
    """Quantise the shortcut of every sum with an int8 result whose own result is quantised."""
    outputs = {id(tensor) for tensor in graph.outputs}
    points = set(plan.points)
    depths: dict[int, int] = {}
    for node in graph.nodes:
        if node.op != "Add" or not all(t.name in links.data and is_float32(types, t) for t in node.inputs):
            continue
        if node.inputs[0] is node.inputs[1] or not any(
            tensor.name in points for tensor in _passed(node.outputs[0], links)
        ):
            continue
        fused = [
            place
            for place, tensor in enumerate(node.inputs)
            if id(tensor) not in outputs
            and len(links.readers(tensor)) == 1
            and any(id(maker) in quantised for maker in tensor.inputs)
        ]
        if fused:
            main = max(fused, key=lambda place: (_depth(node.inputs[place], depths), -place))
            plan.points.setdefault(node.inputs[1 - main].name, []).append((node, 1 - main))


def _passed(tensor: gs.Tensor, links: Links) -> Iterator[gs.Tensor]:
    """Yield a tensor and what activations make of it."""
    yield tensor
    for reader in links.readers(tensor):
        if reader.op in _PASSING and reader.inputs[0] is tensor:
            yield from _passed(reader.outputs[0], links)


def _depth(tensor: gs.Tensor, known: dict[int, int]) -> int:
    """Return the largest number of nodes with weights on a way to a tensor."""
    waiting = [maker for maker in tensor.inputs if id(maker) not in known]
    while waiting:
        node = waiting[-1]
        sources: Sequence[gs.Node] = [maker for other in node.inputs for maker in other.inputs]
        missing = [maker for maker in sources if id(maker) not in known]
        if missing:
            waiting += missing
            continue
        waiting.pop()
        known[id(node)] = max((known[id(maker)] for maker in sources), default=0) + (node.op in WITH_WEIGHTS)
    return max((known[id(maker)] for maker in tensor.inputs), default=0)
