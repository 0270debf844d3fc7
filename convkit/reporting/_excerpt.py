"""The part of a graph around one place where a rewrite changed it, before and after, small enough to be drawn."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from convkit.graph import RewriteRecord, module_of

if TYPE_CHECKING:
    import onnx

__all__ = ["excerpt", "excerpts_of"]

MOST_TOUCHED, MOST_AROUND = 16, 10
"""Nodes of a place, and neighbours around it, that are shown."""
_WEIGHTS = 3
REMOVED, ADDED, CHANGED = "removed", "added", "changed"


def excerpt(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    *,
    removed: Collection[str] = (),
    added: Collection[str] = (),
    changed: Collection[str] = (),
) -> dict[str, Any]:
    """Return the first place where ``after`` differs from ``before``, as a JSON object.

    The names are those of nodes, as `convkit.graph.RewriteRecord` has them. ``before`` and ``after`` in the result have
    ``nodes`` (name, operator, module, shapes of weights, ``kind``: removed, added, changed or empty) and ``edges``
    (indices of two nodes and the tensor); ``places`` is the number of such places, ``left_out`` how many touched nodes
    of this one are not shown.
    """
    old, new = _Graph(before), _Graph(after)
    gone, come = old.indices({*removed, *changed}), new.indices({*added, *changed})
    places = old.components(gone) or new.components(come)
    first = places[0] if gone else []
    whole = {old.keys[index] for index in first}
    boundary = old.tensors(first)
    if gone:
        met = [part for part in new.components(come) if new.tensors(part) & boundary or new.names(part) & whole]
    else:
        met = places[:1]
    second = sorted({index for part in met for index in part})
    kept, shown = first[:MOST_TOUCHED], second[:MOST_TOUCHED]
    around = old.around(kept)
    frame = [*new.indices({old.keys[index] for index in around} - {new.keys[index] for index in shown})]
    beside = list(dict.fromkeys([*frame, *new.around(shown)]))[: 2 * MOST_AROUND]
    return {
        "before": old.part([*kept, *around], dict.fromkeys(removed, REMOVED) | dict.fromkeys(changed, CHANGED)),
        "after": new.part([*shown, *beside], dict.fromkeys(added, ADDED) | dict.fromkeys(changed, CHANGED)),
        "places": len(places),
        "left_out": max(len(first) - len(kept), len(second) - len(shown)),
    }


def excerpts_of(before: onnx.ModelProto, after: onnx.ModelProto, record: RewriteRecord) -> list[dict[str, Any]]:
    """Return the `excerpt` of what a rewrite did, with its name as ``rewrite``; nothing where it changed no node."""
    if not (record.removed or record.added or record.changed):
        return []
    found = excerpt(before, after, removed=record.removed, added=record.added, changed=record.changed)
    return [{"rewrite": record.name, **found}]


@dataclass
class _Graph:
    """A graph by indices of its nodes; the inputs of the graph are nodes too, behind the others."""

    model: onnx.ModelProto
    keys: list[str] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.weights]
        self.keys = [node.name or f"node of {next(iter(node.output), '')}" for node in self.nodes] + self.inputs

    @cached_property
    def makers(self) -> dict[str, int]:
        """The node that makes each tensor."""
        found = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        return found | {name: len(self.nodes) + place for place, name in enumerate(self.inputs)}

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """The nodes that read each tensor."""
        table: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                table.setdefault(name, []).append(index)
        return table

    def indices(self, names: Collection[str]) -> list[int]:
        """Return the nodes of these names."""
        return [index for index, name in enumerate(self.keys) if name in names]

    def names(self, part: Iterable[int]) -> set[str]:
        """Return the names of nodes."""
        return {self.keys[index] for index in part}

    def tensors(self, part: Iterable[int]) -> set[str]:
        """Return the tensors that nodes read and make, without weights."""
        found = {name for index in part for name in (*self._reads(index), *self._makes(index))}
        return found - self.weights.keys() - {""}

    def components(self, touched: Sequence[int]) -> list[list[int]]:
        """Return nodes in groups that hang together, each in the order of the graph."""
        left, groups = dict.fromkeys(touched), []
        while left:
            group, queue = [], [next(iter(left))]
            del left[queue[0]]
            while queue:
                index = queue.pop()
                group.append(index)
                for other in self._beside(index):
                    if other in left:
                        del left[other]
                        queue.append(other)
            groups.append(sorted(group))
        return groups

    def around(self, part: Sequence[int]) -> list[int]:
        """Return neighbours of nodes, which are not among them."""
        inside = set(part)
        found = dict.fromkeys(other for index in part for other in self._beside(index) if other not in inside)
        return list(found)[:MOST_AROUND]

    def part(self, indices: Sequence[int], kinds: Mapping[str, str]) -> dict[str, Any]:
        """Return nodes and the edges among them as JSON objects, in the order of the graph, inputs first."""
        order = sorted(set(indices), key=lambda index: (index < len(self.nodes), index))
        place = {index: number for number, index in enumerate(order)}
        edges = [
            [place[self.makers[name]], place[index], name]
            for index in order
            for name in dict.fromkeys(self._reads(index))
            if name in self.makers and self.makers[name] in place
        ]
        return {"nodes": [self._describe(index, kinds) for index in order], "edges": edges}

    def _describe(self, index: int, kinds: Mapping[str, str]) -> dict[str, Any]:
        name = self.keys[index]
        if index >= len(self.nodes):
            return {"name": name, "operator": "input", "module": "", "weights": [], "kind": ""}
        node = self.nodes[index]
        shapes = ["x".join(map(str, self.weights[one])) or "1" for one in node.input if one in self.weights]
        return {
            "name": name,
            "operator": node.op_type,
            "module": module_of(node),
            "weights": shapes[:_WEIGHTS],
            "kind": kinds.get(name, ""),
        }

    def _reads(self, index: int) -> Sequence[str]:
        return self.nodes[index].input if index < len(self.nodes) else ()

    def _makes(self, index: int) -> Sequence[str]:
        return self.nodes[index].output if index < len(self.nodes) else (self.inputs[index - len(self.nodes)],)

    def _beside(self, index: int) -> list[int]:
        makers = [self.makers[name] for name in self._reads(index) if name in self.makers]
        return [*makers, *(reader for name in self._makes(index) for reader in self.readers.get(name, ()))]
