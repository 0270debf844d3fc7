"""``convkit report``: what is known of an artifact as one HTML file for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import ArtifactArgument, QuietOption, VerboseOption

__all__ = ["report"]


def report(
    artifact: ArtifactArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; by default ARTIFACT.html here.", metavar="FILE.html"),
    ] = None,
    bench: Annotated[
        Path | None, typer.Option("--bench", help="Show what `convkit bench --json` measured.", metavar="FILE.json")
    ] = None,
    errors: Annotated[
        bool, typer.Option("--errors", help="Measure what each node errs, as `convkit bisect` does.")
    ] = False,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="How many golden samples for that.", metavar="N")
    ] = 2,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write what is known of an artifact as one HTML file: the report of its conversion, and what came since.

    That are its engines with their ladders, the types of all nodes, and if asked for what each node errs and latency.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.cli._console import emit, steps
    from convkit.cli._html import measured_errors, outside, write_text
    from convkit.errors import ArtifactError
    from convkit.inspection import open_graph
    from convkit.reporting import bench_of, gather_parts, read_bench, render_report

    measured = read_bench(bench) if bench else None
    graph = open_graph(artifact)
    opened = graph.artifact
    if opened is None:
        raise ArtifactError(f"{artifact} is no artifact.", hint="`convkit inspect` shows what a bare ONNX file is.")
    file = output or Path(f"{opened.path.resolve().name}.html")
    outside(file, opened)
    with steps(f"report {artifact}") as step:
        found = bench_of(measured, str(opened.manifest["seal"]), graph.label) if measured else None
        each = measured_errors(opened, samples, step) if errors else None
        step("drawing results")
        parts = gather_parts(opened, graph.model, bench=found, errors=each)
        write_text(file, render_report(opened.manifest, opened.verdict, parts))
    emit(str(file))
