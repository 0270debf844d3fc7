"""How two graphs differ, each difference with the rewrite that made it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from convkit.errors import ArtifactError
from convkit.graph import REWRITES_KEY, module_of
from convkit.inspection._matching import Matching, Side, match_nodes, node_differences, tensor_difference
from convkit.inspection._shapes import TensorInfo, graph_inputs, tensor_info
from convkit.inspection._stats import operator_name

if TYPE_CHECKING:
    import onnx

__all__ = ["OTHER", "GraphDiff", "InterfaceChange", "NodeChange", "WeightChange", "diff_graphs"]

OTHER = "other"
"""The group of the changes that no recorded rewrite explains."""
_KINDS = ("removed", "added", "changed")


@dataclass(frozen=True)
class NodeChange:
    """A node that only one graph has, or that differs.

    ``kind`` is ``removed`` (only in the first graph), ``added`` (only in the second) or ``changed``;
    then ``details`` say how. ``rewrite`` is the name of the rewrite that did it, or `OTHER`.
    """

    kind: str
    name: str
    operator: str
    module: str
    rewrite: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightChange:
    """An initializer that only one graph has, or whose values differ.

    ``max_abs_difference`` is None where the values cannot be subtracted from each other.
    """

    kind: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs_difference: float | None = None


@dataclass(frozen=True)
class InterfaceChange:
    """A difference of the graph as a whole (inputs, outputs, opsets); an empty string means "absent"."""

    what: str
    a: str
    b: str


@dataclass(frozen=True)
class GraphDiff:
    """How the second graph differs from the first.

    ``matched_by`` is how nodes were paired: by ``names`` or by ``structure``. ``same_nodes`` and
    ``same_weights`` are the numbers of those that do not differ. ``operators`` has the number of nodes in both
    graphs for each operator where it is not the same.
    """

    matched_by: str
    same_nodes: int
    same_weights: int
    nodes: tuple[NodeChange, ...]
    weights: tuple[WeightChange, ...]
    operators: Mapping[str, tuple[int, int]]
    interface: tuple[InterfaceChange, ...]

    @property
    def identical(self) -> bool:
        """Whether nothing differs but names."""
        return not (self.nodes or self.weights or self.interface)

    def groups(self) -> dict[str, list[NodeChange]]:
        """Return the changed nodes by rewrite, `OTHER` last."""
        table: dict[str, list[NodeChange]] = {}
        for change in sorted(self.nodes, key=lambda change: change.rewrite == OTHER):
            table.setdefault(change.rewrite, []).append(change)
        return table

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"identical": self.identical, **asdict(self)}


def diff_graphs(a: onnx.ModelProto, b: onnx.ModelProto) -> GraphDiff:
    """Compare two graphs.

    What a node computes counts: attributes (left out or at their default is the same), where its
    inputs come from, and the values of constants, whether initializers or Constant nodes. The names
    of tensors and the order of independent nodes do not.

    Raises:
        ArtifactError: the record of rewrites in a file is damaged.
    """
    first, second = Side(a), Side(b)
    matching = match_nodes(first, second)
    changes = list(_node_changes(first, second, matching, _Origins(a, b)))
    weights = list(_weight_changes(first, second, matching))
    before, after = (Counter(operator_name(node) for node in side.nodes) for side in (first, second))
    return GraphDiff(
        matched_by=matching.by,
        same_nodes=len(first.nodes) - sum(change.kind != "added" for change in changes),
        same_weights=len(a.graph.initializer) - sum(change.kind != "added" for change in weights),
        nodes=tuple(changes),
        weights=tuple(weights),
        operators={name: (before[name], after[name]) for name in sorted(before | after) if before[name] != after[name]},
        interface=tuple(_interface(first, second, matching)),
    )


class _Origins:
    """The rewrites that are recorded in only one of the two files, and so can have made them differ."""

    def __init__(self, a: onnx.ModelProto, b: onnx.ModelProto) -> None:
        before, after = _records(a), _records(b)
        self.made = [record for record in after if record not in before]
        self.undone = [record for record in before if record not in after]

    def find(self, kind: str, *names: str) -> str:
        """Return the rewrites that account for a change of this kind of a node with these names."""
        opposite = {"added": "removed", "removed": "added"}.get(kind, kind)
        found = [record["name"] for record in self.made if not set(names).isdisjoint(record[kind])]
        found += [f"without {r['name']}" for r in self.undone if not set(names).isdisjoint(r[opposite])]
        return ", ".join(found) or OTHER


def _records(model: onnx.ModelProto) -> list[dict[str, Any]]:
    text = next((entry.value for entry in model.metadata_props if entry.key == REWRITES_KEY), "[]")
    try:
        return [
            {"name": str(entry["name"]), **{kind: list(map(str, entry[kind])) for kind in _KINDS}}
            for entry in json.loads(text)
        ]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"The record of rewrites in the file ({REWRITES_KEY}) is damaged.", hint="Convert again."
        ) from error


def _node_changes(a: Side, b: Side, matching: Matching, origins: _Origins) -> Iterator[NodeChange]:
    def change(kind: str, node: onnx.NodeProto, *names: str, details: Sequence[str] = ()) -> NodeChange:
        rewrite = origins.find(kind, *names)
        return NodeChange(kind, names[-1], operator_name(node), module_of(node), rewrite, tuple(details))

    for i, node in enumerate(a.nodes):
        if i not in matching.pairs:
            yield change("removed", node, a.keys[i])
            continue
        j = matching.pairs[i]
        details = node_differences(a, b, matching, i, j)
        if details:
            yield change("changed", b.nodes[j], a.keys[i], b.keys[j], details=details)
    for j, node in enumerate(b.nodes):
        if j not in matching.partners:
            yield change("added", node, b.keys[j])


def _weight_changes(a: Side, b: Side, matching: Matching) -> Iterator[WeightChange]:
    before = {name: constant for name, constant in a.constants.items() if constant.is_initializer}
    after = {name: constant for name, constant in b.constants.items() if constant.is_initializer}
    pairs = {name: name for name in before if name in after} if matching.by == "names" else {}
    partners = set(pairs)
    for name, other in _same_slots(a, b, matching):
        if name in before and other in after and name not in pairs and other not in partners:
            pairs[name] = other
            partners.add(other)
    for name, constant in before.items():
        if name not in pairs:
            yield WeightChange("removed", name, constant.dtype, constant.shape)
        elif constant.difference(new := after[pairs[name]]):
            yield WeightChange("changed", new.name, new.dtype, new.shape, constant.max_abs_difference(new))
    for name, constant in after.items():
        if name not in partners:
            yield WeightChange("added", name, constant.dtype, constant.shape)


def _same_slots(a: Side, b: Side, matching: Matching) -> Iterator[tuple[str, str]]:
    """Yield the names of the tensors that matched nodes read in the same place."""
    for i, j in matching.pairs.items():
        yield from zip(a.nodes[i].input, b.nodes[j].input, strict=False)


def _interface(a: Side, b: Side, matching: Matching) -> Iterator[InterfaceChange]:
    def borders(values: Iterable[onnx.ValueInfoProto]) -> dict[str, TensorInfo]:
        tensors = [tensor_info(value) for value in values]
        if matching.by == "names":
            return {tensor.name: tensor for tensor in tensors}
        return {str(place): tensor for place, tensor in enumerate(tensors)}

    yield from _table_differences("IR version", {"": a.model.ir_version}, {"": b.model.ir_version})
    yield from _table_differences("opset", a.opsets, b.opsets)
    inputs = [borders(graph_inputs(side.model.graph)) for side in (a, b)]
    yield from _table_differences("input", *inputs)
    outputs = [borders(side.model.graph.output) for side in (a, b)]
    yield from _table_differences("output", *outputs)
    for what, (first, second) in (("inputs", inputs), ("outputs", outputs)):
        if [*first] != [*second] and {*first} == {*second}:
            yield InterfaceChange(f"order of {what}", ", ".join(first), ", ".join(second))
    for key, output in outputs[0].items():
        if key not in outputs[1]:
            continue
        before, _, after = tensor_difference(a, b, matching, output.name, outputs[1][key].name).partition(" -> ")
        if before:
            yield InterfaceChange(f"source of output {key}", before, after)


def _table_differences(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[InterfaceChange]:
    for name in dict.fromkeys((*before, *after)):
        texts = [str(table[name]) if name in table else "" for table in (before, after)]
        if texts[0] != texts[1]:
            yield InterfaceChange(f"{what} {name}".strip(), *texts)
