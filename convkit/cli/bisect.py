"""``convkit bisect``: the nodes where two runners of an artifact part, and the list of nodes to keep in float32."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import ArtifactArgument, JsonOption, QuietOption, VerboseOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convkit.bisection import Bisection, Figures, NodeErrors
    from convkit.graph.precision import Search

__all__ = ["bisect"]

SHOWN = 12
"""Nodes that the table shows without ``--nodes``."""


def bisect(
    artifact: ArtifactArgument,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            help="What is judged, and before it what it is judged by: torch:fp16, onnxruntime, torch:tensorrt-rtx …",
            metavar="BACKEND[:GRAPH]",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the nodes to keep in float32.", metavar="FILE")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search", help="Find the fewest float32 nodes with which results stay: fp16 or bf16.", metavar="PRECISION"
        ),
    ] = None,
    score: Annotated[
        float, typer.Option("--score", min=0.0, help="How far scores may differ in the search.", metavar="X")
    ] = 0.01,
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many golden samples to run.", metavar="N")] = 2,
    nodes: Annotated[int, typer.Option("--nodes", min=0, help="How many of the worst nodes to show.")] = SHOWN,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda:0 …", metavar="DEVICE")] = "cpu",
    node_data: Annotated[
        Path | None,
        typer.Option("--node-data", help="Write the errors for Model Explorer to show.", metavar="FILE.json"),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run an artifact node by node beside float64, and rank the nodes by what each errs on its own.

    Each node is fed the values of the float64 run, so that errors do not add up. Without --engine it is the 16-bit
    graph of an engine of the artifact, or what fp16 would make of its own.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.bisection import Limits, bisect_artifact, search_artifact
    from convkit.cli._console import emit_json, stderr, stdout, steps
    from convkit.cli._layout import show
    from convkit.errors import SettingError
    from convkit.graph.precision import write_keep_file

    if search and engine:
        raise SettingError(
            "--search and --engine exclude each other.", hint="A search runs the artifact's graph in its own precision."
        )
    found: Search | None = None
    with steps(f"bisect {artifact}") as step:
        if search:
            kept = search_artifact(artifact, search, limits=Limits(score, score), samples=samples, progress=step)
            assert kept.bisection is not None
            result, found, reasons = kept.bisection, kept.search, kept.reasons
        else:
            result = bisect_artifact(artifact, engine or (), device=device, samples=samples, progress=step)
            reasons = result.keep_reasons()
    if output:
        write_keep_file(output, reasons, _heading(artifact, result, found))
    if node_data:
        _write_node_data(node_data, result)
    if json:
        emit_json(result.to_json() | {"keep": dict(reasons), "search": found.to_json() if found else None})
        return
    show(stdout(), *_result(result, nodes), *_search(found), *_keep(reasons, result))
    if output:
        stderr().print(f"wrote {output}", markup=False)


def _write_node_data(file: Path, result: Bisection) -> None:
    import json

    from convkit.cli._console import stderr
    from convkit.cli._html import write_text
    from convkit.reporting import node_data

    write_text(file, json.dumps(node_data(result.to_json()), indent=1, ensure_ascii=False) + "\n")
    stderr().print(f"wrote {file}", markup=False)


def _heading(artifact: Path, result: Bisection, found: Search | None) -> list[str]:
    """Return the comments above a list of nodes: what they were judged on, and what the search says of them."""
    lines = [
        f"nodes that stay in float32, of {artifact.name}: {result.runners[-1]} against float64",
        "one name a line; what follows a # is a comment",
    ]
    if found:
        lines.append(f"{_minimal(found)}, by {_count(len(found.trials), 'trial')}")
    return lines


def _result(result: Bisection, shown: int) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, plural, styled, table

    judged = result.runners[-1]
    by = f", judged by {result.runners[0]}" if len(result.runners) > 1 else ""
    yield styled(f"{judged} against float64{by}, {plural(result.samples, 'sample')}", style="bold")
    outputs = table("output", *(f"error of {name}" for name in result.runners))
    for name, figures in result.outputs.items():
        add_row(outputs, name, *(_figure(each) for each in figures))
    yield outputs
    yield ""
    rows = result.ranked()[:shown]
    if rows:
        yield _node_table(result, rows)
        if len(result.nodes) > len(rows):
            yield styled(
                f"and {plural(len(result.nodes) - len(rows), 'tensor')} more (--nodes N shows them)", style="dim"
            )
        yield ""
    first, parted = result.first_parting(), sum(row.parted for row in result.nodes)
    if first:
        where = first.node or first.tensor
        yield styled(f"{plural(parted, 'tensor')} off by more than is explained; the first: {where}", style="bold red")
        yield first.reason
    else:
        yield styled("No node errs more by itself than its type explains.", style="green")
    for decision in result.decisions:
        yield f"{decision.operator} {decision.node} of {decision.runner} decides {decision.share:.2%} otherwise"
    if result.float32_nodes:
        names = ", ".join(result.float32_nodes[:SHOWN])
        yield styled(
            f"the reference of these is float32, for nothing computes them in float64: {names}", style="yellow"
        )


def _node_table(result: Bisection, rows: Sequence[NodeErrors]) -> RenderableType:
    from convkit.cli._layout import add_row, styled, table

    several = len(result.runners) > 1
    titles = [f"local, {result.runners[0]}"] if several else []
    columns = ["node", "operator", "module", "type", *titles, "local", "at most", "accumulated", "of the output error"]
    found = table(*columns, numbers=tuple(range(4, len(columns))))
    for row in rows:
        first = [_figure(row.local[0])] if several else []
        local, accumulated = row.local[-1], row.accumulated[-1]
        cells = [
            _figure(local), _figure(local, "max_abs"), _figure(accumulated),
            "" if row.share is None else f"{row.share:.1%}",
        ]  # fmt: skip
        name = styled(row.node or f"(makes {row.tensor})", style="red" if row.parted else "")
        add_row(found, name, row.operator, row.module, row.dtype, *first, *cells)
    return found


def _search(found: Search | None) -> Iterator[RenderableType]:
    from convkit.cli._layout import styled

    if found is None:
        return
    yield ""
    yield styled(f"{_minimal(found)}, by {_count(len(found.trials), 'trial')}", style="bold")
    best = next((trial for trial in found.trials if trial.kept == frozenset(found.kept)), None)
    if best and best.figures:
        yield best.figures
    if not found.monotone:
        yield styled(
            "In some trials more nodes in float32 were worse: there may be a smaller set that was not found.",
            style="yellow",
        )


def _minimal(found: Search) -> str:
    count = _count(len(found.kept), "node")
    if found.minimal:
        return f"{count} in float32, none of which can be left out" if found.kept else f"{count} in float32 needed"
    return f"{count} in float32 when the trials were used up; fewer may do"


def _keep(reasons: Mapping[str, str], result: Bisection) -> Iterator[RenderableType]:
    from convkit.cli._layout import add_row, grid, styled

    if not reasons:
        return
    yield ""
    wide = {row.node for row in result.nodes if row.dtype == "float32"}
    heading = "keep in float32"
    if wide >= reasons.keys():
        heading = "float32 already: a backend that computes these more exactly helps, --keep-fp32 does not"
    yield styled(heading, style="bold")
    rows = grid(2)
    for name, reason in reasons.items():
        add_row(rows, name, reason)
    yield rows


def _count(count: int, noun: str) -> str:
    from convkit.cli._layout import plural

    return plural(count, noun)


def _figure(figures: Figures | None, name: str = "rel_l2") -> str:
    value: Any = getattr(figures, name) if figures else None
    return "none" if value is None else f"{value:.2g}"
