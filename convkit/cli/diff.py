"""``convkit diff``: how two graphs differ, and which rewrite made each difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convkit.cli._options import JsonOption

if TYPE_CHECKING:
    import onnx
    from rich.console import RenderableType
    from rich.table import Table

    from convkit.inspection import GraphDiff, GraphFile, NodeChange, WeightChange

__all__ = ["diff"]

SHOWN = 12
"""Lines of one list that are shown without ``--all``."""
_MARKS = {"removed": ("-", "red"), "added": ("+", "green"), "changed": ("~", "yellow")}


def diff(
    a: Annotated[Path, typer.Argument(help="An artifact directory or an ONNX file.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="What to compare it with.", metavar="B")],
    show_all: Annotated[bool, typer.Option("--all", help="Show long lists in full.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit 1 if the graphs differ, like git diff.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write both and their differences as a report.", metavar="FILE.html")
    ] = None,
    bench: Annotated[
        Path | None,
        typer.Option("--bench", help="Show what `convkit bench --json` measured there.", metavar="FILE.json"),
    ] = None,
    errors: Annotated[bool, typer.Option("--errors", help="Show there what each node errs by itself.")] = False,
    json: JsonOption = False,
) -> int:
    """Compare two graphs node by node; the exit code is 0 whether or not they differ, unless --exit-code is given."""
    from convkit.cli._console import emit_json, stdout
    from convkit.cli._layout import show
    from convkit.inspection import diff_graphs, open_graph

    first, second = open_graph(a), open_graph(b)
    result = diff_graphs(first.model, second.model)
    if html:
        _write_html(html, first, second, result, bench, errors=errors)
    if json:
        emit_json({"a": first.label, "b": second.label, **result.to_json()})
    else:
        limit = None if show_all else SHOWN
        header = _header(first.label, first.model, second.label, second.model)
        show(stdout(), *header, *_body(result, limit), *_summary(result, limit))
    return int(exit_code and not result.identical)


def _write_html(
    file: Path, first: GraphFile, second: GraphFile, result: GraphDiff, bench: Path | None, *, errors: bool
) -> None:
    from convkit.bisection import DEFAULT_SAMPLES
    from convkit.cli._console import stderr, steps
    from convkit.cli._html import measured_errors, outside, write_text
    from convkit.reporting import Side, bench_of, read_bench, render_comparison

    outside(file, first.artifact, second.artifact)
    measured = read_bench(bench) if bench else None
    sides = []
    with steps("report") as step:
        for graph in (first, second):
            artifact = graph.artifact
            found = bench_of(measured, str(artifact.manifest["seal"]), graph.label) if artifact and measured else None
            each = measured_errors(artifact, DEFAULT_SAMPLES, step) if artifact and errors else None
            sides.append(Side(graph, found, each))
        step("drawing results")
        write_text(file, render_comparison(sides[0], sides[1], result))
    stderr().print(f"wrote {file}", markup=False)


def _header(a_label: str, a_model: onnx.ModelProto, b_label: str, b_model: onnx.ModelProto) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, table

    rows = table("", "", "nodes", "weights", numbers=(2, 3))
    for name, label, model in (("A", a_label, a_model), ("B", b_label, b_model)):
        add_row(rows, name, label, str(len(model.graph.node)), str(len(model.graph.initializer)))
    yield rows
    yield ""


def _body(result: GraphDiff, limit: int | None) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, plural, styled, table
    from convkit.inspection import OTHER

    for rewrite, changes in result.groups().items():
        title = "not explained by a rewrite" if rewrite == OTHER else rewrite
        yield styled(f"{title}  ({plural(len(changes), 'node')})", style="bold")
        yield _node_table(changes, limit)
        yield ""
    if result.weights and limit is None:
        yield styled(f"weights  ({len(result.weights)})", style="bold")
        yield _weight_table(result.weights)
        yield ""
    if result.interface:
        yield styled("graph", style="bold")
        rows = table("", "A", "B")
        for difference in result.interface:
            add_row(rows, difference.what, difference.a or "none", difference.b or "none")
        yield rows
        yield ""
    if result.operators:
        yield styled("operators", style="bold")
        rows = table("", "A", "B", "change", numbers=(1, 2, 3))
        for name, (before, after) in result.operators.items():
            add_row(rows, name, str(before), str(after), f"{after - before:+d}")
        yield rows
        yield ""


def _summary(result: GraphDiff, limit: int | None) -> Iterator[RenderableType]:
    from convkit.cli._layout import plural, styled

    if result.identical:
        yield styled("The graphs compute the same: they differ in nothing but names.", style="green")
    else:
        yield styled(f"{plural(result.same_nodes, 'node')} the same{_counts(result.nodes)}", style="bold")
        hint = "; --all lists them" if result.weights and limit is not None else ""
        yield f"{plural(result.same_weights, 'weight')} the same{_counts(result.weights)}{hint}"
    if result.matched_by == "structure":
        note = "The names have too little in common: nodes were paired by operator, weight shapes and order."
        yield styled(note, style="yellow")


def _counts(changes: Sequence[NodeChange | WeightChange]) -> str:
    counts = {kind: sum(change.kind == kind for change in changes) for kind in _MARKS}
    return "".join(f", {count} {kind}" for kind, count in counts.items() if count)


def _node_table(changes: Sequence[NodeChange], limit: int | None) -> Table:
    from convkit.cli._layout import add_row, grid

    rows = grid(3)
    for change in changes[:limit]:
        evident = change.name.rpartition("/")[2].startswith(change.operator)
        name = change.name if evident else f"{change.name} ({change.operator})"
        _add(rows, change.kind, name, "; ".join(change.details))
    if limit is not None and len(changes) > limit:
        add_row(rows, "", f"and {len(changes) - limit} more (--all lists them)", style="dim")
    return rows


def _weight_table(changes: Sequence[WeightChange]) -> Table:
    from convkit.cli._layout import grid, shape_text

    rows = grid(3)
    for change in changes:
        largest = change.max_abs_difference
        details = "" if largest is None else f", values differ by up to {largest:.3g}"
        _add(rows, change.kind, change.name, f"{change.dtype} {shape_text(change.shape)}{details}")
    return rows


def _add(rows: Table, kind: str, name: str, details: str) -> None:
    from convkit.cli._layout import add_row, styled

    mark, style = _MARKS[kind]
    add_row(rows, styled(f"  {mark}", style=style), name, details)
