"""Two graphs or artifacts side by side: the verdicts, results, ledgers and types of both, and how the graphs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from convkit.inspection import OTHER, GraphDiff, GraphFile, NodeChange
from convkit.reporting._artifact import draw_rows, engine_results, gather_parts
from convkit.reporting._context import change_context, context_of
from convkit.reporting._excerpt import excerpt
from convkit.reporting._pictures import embed
from convkit.reporting._plots import MOST_LAYERS
from convkit.reporting._render import render

__all__ = ["Side", "render_comparison"]

MOST_ROWS = 500
"""Nodes or weights of one list that are shown."""


@dataclass(frozen=True)
class Side:
    """One of the two: its graph, and of an artifact what is known besides; see `gather_parts`."""

    graph: GraphFile
    bench: Mapping[str, Any] | None = None
    errors: Mapping[str, Any] | None = None

    @property
    def context(self) -> dict[str, Any] | None:
        """What the template shows of an artifact; None of a bare file."""
        if self.graph.artifact is None:
            return None
        artifact = self.graph.artifact
        parts = gather_parts(artifact, self.graph.model, bench=self.bench, errors=self.errors, pictures=False)
        return context_of(artifact.manifest, artifact.verdict, parts, MOST_LAYERS // 2)


def render_comparison(a: Side, b: Side, diff: GraphDiff) -> str:
    """Return a report of two graphs as HTML; ``diff`` is that of their models.

    Of two artifacts it shows both, results on the golden samples of the first included, as far as both run here and
    take them.
    """
    labels = a.graph.label, b.graph.label
    pictures, no_pictures = _pictures(a.graph, b.graph, labels)
    sides = [{"label": label, "one": side.context} for label, side in zip(labels, (a, b), strict=True)]
    return render(
        "diff.html.jinja",
        title=f"{labels[0]} and {labels[1]}",
        labels=labels,
        diff=diff,
        summary=_summary(diff),
        sides=sides,
        both=all(side["one"] for side in sides),
        pictures=pictures,
        no_pictures=no_pictures,
        drawn=list(_drawn(a.graph, b.graph, diff)),
        nodes=[_node_row(change) for change in diff.nodes[:MOST_ROWS]],
        weights=[
            (
                change.kind, change.name, change.dtype, " x ".join(map(str, change.shape)) or "scalar",
                "" if change.max_abs_difference is None else f"{change.max_abs_difference:.3g}",
            )
            for change in diff.weights[:MOST_ROWS]
        ],
        interface=[(each.what, each.a or "none", each.b or "none") for each in diff.interface],
        operators=[
            (name, str(before), str(after), f"{after - before:+d}") for name, (before, after) in diff.operators.items()
        ],
        settings=list(_settings(a.graph, b.graph)),
    )  # fmt: skip


def _summary(diff: GraphDiff) -> str:
    if diff.identical:
        return "The graphs compute the same: they differ in nothing but names."
    texts = []
    for same, changes, noun in ((diff.same_nodes, diff.nodes, "node"), (diff.same_weights, diff.weights, "weight")):
        counts = {kind: sum(change.kind == kind for change in changes) for kind in ("removed", "added", "changed")}
        listed = "".join(f", {count} {kind}" for kind, count in counts.items() if count)
        texts.append(f"{same} {noun}{'' if same == 1 else 's'} the same{listed}")
    note = ""
    if diff.matched_by == "structure":
        note = " The names have too little in common: nodes were paired by operator, weight shapes and order."
    return f"{'; '.join(texts)}.{note}"


def _drawn(a: GraphFile, b: GraphFile, diff: GraphDiff) -> Iterator[dict[str, Any]]:
    for number, (rewrite, changes) in enumerate(diff.groups().items()):
        names = {kind: [c.name for c in changes if c.kind == kind] for kind in ("removed", "added", "changed")}
        graph = excerpt(a.model, b.model, **names)
        title = "not explained by a rewrite" if rewrite == OTHER else rewrite
        count = f"({len(changes)} node{'' if len(changes) == 1 else 's'})"
        yield change_context(title, graph, count=count, first=not number)


def _node_row(change: NodeChange) -> tuple[str, ...]:
    rewrite = "" if change.rewrite == OTHER else change.rewrite
    return change.kind, change.name, change.operator, change.module, rewrite, "; ".join(change.details)


def _settings(a: GraphFile, b: GraphFile) -> Iterator[tuple[str, str, str]]:
    """Yield the settings of two artifacts that differ."""
    if a.artifact is None or b.artifact is None:
        return
    tables = [{s["name"]: s["value"] for s in side.manifest["settings"]} for side in (a.artifact, b.artifact)]
    for name in dict.fromkeys([*tables[0], *tables[1]]):
        before, after = (str(table.get(name, "")) for table in tables)
        if before != after:
            yield name, before, after


def _pictures(a: GraphFile, b: GraphFile, labels: tuple[str, str]) -> tuple[list[Any], str]:
    """Return the results of both on the golden samples of the first, or why there are none."""
    if a.artifact is None or b.artifact is None:
        return [], "Results are drawn of two artifacts."
    found = {}
    for label, side in zip(labels, (a.artifact, b.artifact), strict=True):
        who, results = engine_results(side, of=a.artifact)
        if not results:
            return [], f"{label} does not run on the golden samples of {labels[0]} here, or has no results."
        found[f"{label} on {who}"] = results
    return embed(draw_rows(found))
