"""What a graph rewrite is, and how one is applied, counted and recorded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from convkit.errors import AdapterError, PluginError, RewriteError, blamed_on, named, suggest
from convkit.graph._metadata import INT8_KEY, PRECISION_KEY, added_metadata
from convkit.model import Expect, optional
from convkit.plugins import manager

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

__all__ = [
    "PHASES",
    "NoMatch",
    "NodeRewrite",
    "Phase",
    "Rewrite",
    "RewriteRecord",
    "apply_rewrite",
    "in_phases",
    "quiet",
]

Phase = Literal["clean", "fuse", "precision", "target"]
_REASONS = (INT8_KEY, PRECISION_KEY)
"""Metadata that is true of the very node alone, not of one that takes its place."""
PHASES: tuple[Phase, ...] = ("clean", "fuse", "precision", "target")
"""The order in which rewrites run: tidy the exported graph, fuse and reshape it, type it, fit it to an engine."""


@dataclass(frozen=True)
class NoMatch:
    """Why a node that looks right is not rewritten; ``nodes`` are the others that the reason is about."""

    reason: str
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason} ({', '.join(self.nodes)})" if self.nodes else self.reason


@dataclass
class RewriteRecord:
    """What one rewrite did: how often it fired, the nodes that went and came, and the near misses."""

    name: str
    reason: str
    expect: str
    fired: int = 0
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    near_misses: list[str] = field(default_factory=list)


class Rewrite(ABC):
    """A change of the graph that keeps what it computes. It must be idempotent.

    ``name`` is how records and settings call it (``plugin.what-it-does``), ``reason`` why it is
    worth doing, ``phase`` when it runs, ``expect`` how often it must fire.
    """

    name: ClassVar[str]
    reason: ClassVar[str]
    phase: ClassVar[Phase] = "fuse"
    expect: Expect = optional()

    @abstractmethod
    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Change ``graph`` in place, append near misses (``node: reason``), return how often the rewrite fired."""


class NodeRewrite(Rewrite):
    """A rewrite that looks at one node after the other.

    ``op_types`` are the node types worth a look.
    """

    op_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def match(self, graph: gs.Graph, node: gs.Node) -> Any:
        """Return what `rewrite` needs, a `NoMatch` that says why not, or None if it is no candidate."""

    @abstractmethod
    def rewrite(self, graph: gs.Graph, node: gs.Node, match: Any) -> None:
        """Change the graph around ``node``."""

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Rewrite every node that matches."""
        fired = 0
        for node in list(graph.nodes):
            if node.op not in self.op_types:
                continue
            where, plugin = f"of rewrite {self.name!r} at node {node.name!r}", manager().origin(self)
            with blamed_on(f"match() {where}", plugin):
                match = self.match(graph, node)
            if isinstance(match, NoMatch):
                near_misses.append(f"{node.name}: {match}")
            elif match is not None:
                with blamed_on(f"rewrite() {where}", plugin):
                    self.rewrite(graph, node, match)
                fired += 1
        return fired


def apply_rewrite(
    model: onnx.ModelProto, rewrite: Rewrite, expect: Expect | None = None
) -> tuple[onnx.ModelProto, RewriteRecord]:
    """Return the rewritten model and what happened; ``model`` itself is not changed.

    IR version, opsets and the metadata of model and nodes are kept, unless the rewrite asks for a newer opset, which
    may need a newer IR version. ``expect`` overrides the rewrite's own expectation.

    Raises:
        RewriteError: the rewrite fired another number of times than expected.
        AdapterError: it raised something, left a graph that cannot be written, or did not return how often it fired.
    """
    import onnx_graphsurgeon as gs

    wanted, plugin, what = expect or rewrite.expect, manager().origin(rewrite), f"rewrite {rewrite.name!r}"
    record = RewriteRecord(rewrite.name, rewrite.reason, str(wanted))
    with quiet():
        graph = gs.import_onnx(model)
        with blamed_on(f"apply() of {what}", plugin):
            fired: Any = rewrite.apply(graph, record.near_misses)
    if not isinstance(fired, int) or fired < 0:
        raise AdapterError(
            f"{named(f'apply() of {what}', plugin)} returned {fired!r}.", hint="Return how often the rewrite fired."
        )
    record.fired = int(fired)
    if not wanted.accepts(record.fired):
        raise RewriteError(
            f"{named(what, plugin)} fired {record.fired} time{'' if record.fired == 1 else 's'}; it declares {wanted}.",
            hint=_count_hint(record, wanted),
        )
    if not record.fired:
        return model, record
    with quiet(), blamed_on(f"the graph as {what} left it", plugin):
        result = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    _keep_metadata(model, result)
    _add_annotations(graph, result)
    before, after = _signatures(model), _signatures(result)
    record.removed = [name for name in before if name not in after]
    record.added = [name for name in after if name not in before]
    record.changed = [name for name in after if name in before and after[name] != before[name]]
    return result, record


def in_phases(found: Mapping[str, Sequence[Rewrite]]) -> list[tuple[str, Rewrite]]:
    """Return the rewrites of all plugins as (plugin, rewrite) in the order of `PHASES`.

    Within a phase they keep the order of the plugins' names and, within a plugin, its own.

    Raises:
        PluginError: a rewrite names a phase that does not exist.
    """
    pairs = [(plugin, rewrite) for plugin in sorted(found) for rewrite in found[plugin]]
    for plugin, rewrite in pairs:
        if rewrite.phase not in PHASES:
            raise PluginError(
                f"Rewrite {rewrite.name!r} of plugin {plugin!r} has the phase {rewrite.phase!r}.",
                hint=f"{suggest(rewrite.phase, PHASES)} Use one of {', '.join(PHASES)}.",
            )
    return sorted(pairs, key=lambda pair: PHASES.index(pair[1].phase))


def _count_hint(record: RewriteRecord, wanted: Expect) -> str:
    if record.fired >= wanted.least:
        return "It fires too often: let match() accept fewer nodes, or declare how often it fires on this graph."
    misses = "".join(f"\n  {miss}" for miss in record.near_misses[:10])
    if misses:
        return f"Near misses:{misses}"
    if record.fired:
        return "It fires too rarely, and match() names no near miss: let it accept more nodes, or declare the count."
    return "The graph holds no node that it looks for."


@contextmanager
def quiet() -> Iterator[None]:
    """Silence onnx-graphsurgeon, which prints to stdout what it thinks of bfloat16."""
    from onnx_graphsurgeon.logger import G_LOGGER

    severity = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = severity


def _add_annotations(graph: gs.Graph, result: onnx.ModelProto) -> None:
    """Write what rewrites gave the nodes of a graph into the metadata of the same nodes of the model."""
    given = {
        node.outputs[0].name: added_metadata(node) for node in graph.nodes if node.outputs and added_metadata(node)
    }
    for node in result.graph.node if given else ():
        for key, text in given.get(node.output[0], {}).items():
            kept = [entry for entry in node.metadata_props if entry.key != key]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
            node.metadata_props.add(key=key, value=text)


def _keep_metadata(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    from onnx import helper

    result.ir_version = max(source.ir_version, helper.find_min_ir_version_for(result.opset_import, True))
    result.producer_name, result.producer_version = source.producer_name, source.producer_version
    del result.metadata_props[:]
    result.metadata_props.extend(source.metadata_props)
    by_name = {node.name: node.metadata_props for node in source.graph.node}
    by_output = {output: node.metadata_props for node in source.graph.node for output in node.output}
    for node in result.graph.node:
        # A new node stands where the one stood whose output it now makes.
        own = by_name.get(node.name)
        origins = [own, *(by_output.get(output) for output in node.output)]
        found = next((origin for origin in origins if origin), None)
        if found and not node.metadata_props:
            node.metadata_props.extend(entry for entry in found if found is own or entry.key not in _REASONS)


def _signatures(model: onnx.ModelProto) -> dict[str, tuple[Any, ...]]:
    """Return what identifies each node by name: its type, inputs with the values of constants, attributes."""
    values = {tensor.name: hash(tensor.raw_data or tensor.SerializeToString()) for tensor in model.graph.initializer}
    table: dict[str, tuple[Any, ...]] = {}
    for node in model.graph.node:
        attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        table[node.name] = (node.op_type, tuple((name, values.get(name)) for name in node.input), attributes)
    return table
