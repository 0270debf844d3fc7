"""Match the nodes of two graphs, and describe how matched nodes differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar

from convkit.inspection._shapes import graph_inputs
from convkit.inspection._stats import operator_name, operator_schema
from convkit.inspection._tensors import Constant, constants

if TYPE_CHECKING:
    import onnx

__all__ = ["Matching", "Side", "match_nodes", "node_differences", "tensor_difference"]

T = TypeVar("T", bound=Hashable)

MIN_NAMESAKES = 0.5
"""Share of the smaller graph's nodes that must have a namesake of the same operator to match by name."""
MAX_PAIRS = 100_000
"""Pairs of equal elements that an alignment considers: about a second of work."""


class Side:
    """One of the two graphs, with its constants, inputs and producers by name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.keys = list(_unique(node.name or f"node of {next(iter(node.output), '')}" for node in self.nodes))
        self.constants = constants(model.graph)
        self.inputs = {value.name: position for position, value in enumerate(graph_inputs(model.graph))}
        self.producers = {
            name: (index, slot)
            for index, node in enumerate(self.nodes)
            for slot, name in enumerate(node.output)
            if name
        }
        self.opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}

    def schema(self, node: onnx.NodeProto) -> onnx.defs.OpSchema | None:
        """Return the definition of the node's operator, or None for one that ONNX does not define."""
        return operator_schema(node, self.opsets)


@dataclass
class Matching:
    """Pairs of node indices, and whether they were matched by ``names`` or by ``structure``."""

    by: str
    pairs: dict[int, int]

    @cached_property
    def partners(self) -> frozenset[int]:
        """The nodes of the second graph that match one of the first."""
        return frozenset(self.pairs.values())


def match_nodes(a: Side, b: Side) -> Matching:
    """Match the nodes of two graphs: by name, or by structure where the names have too little in common.

    By structure means that both sequences of nodes, in their topological order, are aligned by operator and shapes of
    weights, and what this leaves in between by operator alone.
    """
    index = {key: position for position, key in enumerate(b.keys)}
    pairs = {i: index[key] for i, key in enumerate(a.keys) if key in index}
    alike = sum(operator_name(a.nodes[i]) == operator_name(b.nodes[j]) for i, j in pairs.items())
    if alike >= MIN_NAMESAKES * min(len(a.nodes), len(b.nodes)):
        return Matching("names", pairs)
    return Matching("structure", _align(a, b))


def _align(a: Side, b: Side) -> dict[int, int]:
    operators = [[operator_name(node) for node in side.nodes] for side in (a, b)]
    shapes = [[_weight_shapes(side, node) for node in side.nodes] for side in (a, b)]
    tokens = [list(zip(*pair, strict=True)) for pair in zip(operators, shapes, strict=True)]
    pairs = dict(_common(tokens[0], tokens[1]))
    i = j = 0
    for end_i, end_j in [*pairs.items(), (len(a.nodes), len(b.nodes))]:
        gap = _common(operators[0][i:end_i], operators[1][j:end_j])
        pairs.update((i + step_i, j + step_j) for step_i, step_j in gap)
        i, j = end_i + 1, end_j + 1
    return pairs


def _common(first: Sequence[T], second: Sequence[T]) -> Iterator[tuple[int, int]]:
    """Yield the places of equal elements, in order: the beginning that agrees, and the longest runs after it."""
    shorter = min(len(first), len(second))
    head = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    yield from ((i, i) for i in range(head))
    rare = _rare(first[head:], second[head:])
    left, right = (
        [element if element in rare else (side, i) for i, element in enumerate(sequence[head:])]
        for side, sequence in enumerate((first, second))
    )
    for block in SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks():
        yield from ((head + block.a + i, head + block.b + i) for i in range(block.size))


def _rare(first: Sequence[T], second: Sequence[T]) -> set[T]:
    """Return the elements to align by: all, or in long sequences the rarest ones, whose pairs are few enough."""
    before, after = Counter(first), Counter(second)
    costs = sorted(((before[element] * after[element], element) for element in before), key=lambda pair: pair[0])
    totals = accumulate(cost for cost, _ in costs)
    return {element for (_, element), total in zip(costs, totals, strict=True) if total <= MAX_PAIRS}


def _weight_shapes(side: Side, node: onnx.NodeProto) -> tuple[tuple[int, ...], ...]:
    return tuple(side.constants[name].shape for name in node.input if name in side.constants)


def node_differences(a: Side, b: Side, matching: Matching, i: int, j: int) -> list[str]:
    """Return in words how node ``j`` of ``b`` differs from node ``i`` of ``a``, apart from its name."""
    first, second = a.nodes[i], b.nodes[j]
    found = []
    if operator_name(first) != operator_name(second):
        found.append(f"operator: {operator_name(first)} -> {operator_name(second)}")
    found.extend(_attribute_differences(a, b, first, second))
    schema = b.schema(second)
    for slot, (name, other) in enumerate(zip_longest(first.input, second.input, fillvalue="")):
        difference = tensor_difference(a, b, matching, name, other)
        if difference:
            role = schema.inputs[slot].name if schema and slot < len(schema.inputs) else f"input {slot}"
            found.append(f"{role}: {difference}")
    return found


def tensor_difference(a: Side, b: Side, matching: Matching, name: str, other: str) -> str:
    """Return in words how two tensors differ: in their values, or in where they come from."""
    first, second = a.constants.get(name), b.constants.get(other)
    if first and second:
        return first.difference(second)
    if first or second:
        same = False
    elif name in a.producers and other in b.producers:
        same = _same_source(a, b, matching, name, other)
    elif name in a.inputs and other in b.inputs and matching.by == "structure":
        same = a.inputs[name] == b.inputs[other]
    else:
        same = name == other
    return "" if same else f"{_call(a, name)} -> {_call(b, other)}"


def _same_source(a: Side, b: Side, matching: Matching, name: str, other: str) -> bool:
    """Return whether two computed tensors come from the same place.

    A node that is only in one graph and whose neighbour took over the name of its output, as when
    one node is folded into another, is a difference of that node and not of all that read the tensor.
    """
    (i, slot), (j, other_slot) = a.producers[name], b.producers[other]
    if matching.pairs.get(i) == j:
        return slot == other_slot
    return name == other and (i not in matching.pairs or j not in matching.partners)


def _call(side: Side, name: str) -> str:
    """Return a tensor as it is shown to people: by its producer, by its type if it is constant, else by its name."""
    if name in side.constants:
        constant = side.constants[name]
        return f"constant {constant.dtype} {list(constant.shape)}"
    if name in side.producers:
        index, slot = side.producers[name]
        return side.keys[index] + (f":{slot}" if slot else "")
    return name or "none"


def _attribute_differences(a: Side, b: Side, first: onnx.NodeProto, second: onnx.NodeProto) -> Iterator[str]:
    before, after = _attributes(a, first), _attributes(b, second)
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Constant) and isinstance(new, Constant):
            difference = old.difference(new)
            if difference:
                yield f"{name}: {difference}"
        elif old != new:
            yield f"{name}: {_show(old)} -> {_show(new)}"


def _attributes(side: Side, node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node, those left out with their defaults."""
    import onnx

    schema = side.schema(node)
    defaults = [entry.default_value for entry in schema.attributes.values()] if schema else []
    table = {}
    for attribute in (*defaults, *node.attribute):
        if attribute.type == onnx.AttributeProto.UNDEFINED:
            continue
        try:
            value: Any = onnx.helper.get_attribute_value(attribute)
        except ValueError:  # of a type that ONNX does not know, or a reference outside of a function
            value = attribute
        if isinstance(value, onnx.TensorProto):
            value = Constant(attribute.name, value)
        elif hasattr(value, "SerializeToString"):
            value = value.SerializeToString(deterministic=True)
        elif not isinstance(value, int | float | bytes):
            value = list(value)
        table[attribute.name] = value
    return table


def _show(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bytes):
        return value.decode() if len(value) <= 40 and value.isascii() else f"{len(value)} bytes"
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unique(names: Iterator[str]) -> Iterator[str]:
    """Yield the names, the second of the same name as ``name#2`` and so on."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}#{seen[name]}"
