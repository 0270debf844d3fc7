"""``convkit bench``: how long artifacts take on the engines of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import JsonOption, QuietOption, UnprovedOption, VerboseOption

if TYPE_CHECKING:
    from rich.console import RenderableType

    from convkit.benchmarking import Benchmark, Cell

__all__ = ["bench"]


def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifact directories to compare.", metavar="ARTIFACT…")],
    backend: Annotated[
        list[str] | None, typer.Option("--backend", help="Only this inference engine; may be repeated.", metavar="NAME")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Only cpu, cuda:0 …; may be repeated.", metavar="DEVICE")
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", min=1, help="Only this batch; may be repeated.", metavar="N"),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="Only the network, or the pipeline: raw inputs to results.", metavar="SCOPE"),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Timed runs of each engine and batch at most.", metavar="N")] = 30,
    seconds: Annotated[
        float, typer.Option("--seconds", help="End them after so long, but not before the fifth.", metavar="S")
    ] = 5.0,
    warm_up: Annotated[int, typer.Option("--warm-up", help="Runs before them that do not count.", metavar="N")] = 3,
    cool_down: Annotated[
        float, typer.Option("--cool-down", help="Seconds of rest before each batch.", metavar="S")
    ] = 0.0,
    threads: Annotated[
        int | None, typer.Option("--threads", help="Cores that each engine is bound to.", metavar="N")
    ] = None,
    unproved: UnprovedOption = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw latency and throughput into this file.", metavar="FILE.svg|png")
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Time artifacts on every engine and device that runs here, in turns, and list those that do not with the reason.

    Each engine has a process of its own: its memory is not that of another one. The conditions are printed with the
    table; warm-up is shown apart.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.benchmarking import SCOPES, BenchSettings, check_plot, write_plot
    from convkit.benchmarking import bench as run_bench
    from convkit.cli._console import emit_json, stderr, stdout, steps
    from convkit.cli._layout import show

    settings = BenchSettings(
        backends=tuple(backend or ()),
        devices=tuple(device or ()),
        batches=tuple(batch or ()),
        scopes=tuple(dict.fromkeys(scope or SCOPES)),
        runs=runs,
        seconds=seconds,
        warm_up=warm_up,
        cool_down=cool_down,
        threads=threads,
        unproved=unproved,
    )
    if plot:
        check_plot(plot)
    with steps("bench") as step:
        found = run_bench(artifacts, settings, progress=step)
    if plot:
        write_plot(found, plot)
    if json:
        emit_json(found.to_json())
    else:
        show(stdout(), *_protocol(found), "", _table(found, several=len(set(artifacts)) > 1), *_not_run(found))
    if plot:
        stderr().print(f"wrote {plot}", markup=False)


def _protocol(found: Benchmark) -> list[str]:
    """Return the conditions in lines."""
    facts = found.protocol
    machine, limits = facts["machine"], facts["runs"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    cores = facts["pinned_to_cores"]
    bound = f"bound to cores {', '.join(map(str, cores))}" if cores else "not bound to cores"
    load = ", ".join(map(str, machine["load"] or ())) or "not known"
    gpus = [
        f"GPU: {', '.join(f'{name} {value}' for name, value in gpu.items())}"
        for gpu in (*facts["gpu"], *facts["gpu_after"])
    ]
    return [
        f"{facts['started']}, {machine['platform']}, {machine['cpu']}, {machine['cores']} cores,"
        f" clock: {machine['clock']}, load before: {load}",
        *gpus,
        versions,
        f"{facts['threads']} threads, {bound}; {facts['order']}",
        f"{facts['warm_up_runs']} runs to warm up; then {limits['at_most']}, or at least {limits['at_least']} in"
        f" {limits['seconds']:g} s; {facts['cool_down_s']:g} s of rest before each batch; clocks are not locked",
        f"inputs: {facts['inputs']}",
    ]


def _table(found: Benchmark, *, several: bool) -> RenderableType:
    from convkit.cli._layout import add_row, bytes_text, table

    titles = ["engine", "scope", "batch", "p50 ms", "p90 ms", "p99 ms", "runs", "items/s", "first ms", "load s"]
    first = ["artifact"] if several else []
    columns = [*first, *titles, "memory"]
    rows = table(*columns, numbers=tuple(range(len(first) + 2, len(columns))))
    for cell in found.cells:
        latency, memory = cell.latency, cell.memory
        taken = [bytes_text(memory.peak) if memory.peak else ""]
        taken += [f"GPU {bytes_text(memory.device)}"] if memory.device is not None else []
        add_row(
            rows,
            *([cell.candidate.artifact] if several else []),
            _engine(cell),
            cell.scope,
            str(cell.batch),
            *(_milliseconds(latency[name]) for name in ("p50", "p90", "p99")),
            str(len(cell.seconds)),
            f"{cell.items_per_second:.4g}",
            _milliseconds(cell.run.warm_up[0] * 1e3),
            f"{cell.run.load:.2f}",
            ", ".join(taken),
        )
    return rows


def _engine(cell: Cell) -> str:
    return f"{cell.candidate.engine}{', unproved' if cell.run.unproved else ''}"


def _milliseconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _not_run(found: Benchmark) -> list[RenderableType]:
    from convkit.cli._layout import add_row, grid, styled

    if not found.not_run:
        return []
    rows = grid(3, unbroken=0)
    for each in found.not_run:
        where = f", {each.scope} at batch {each.batch}" if each.scope else ""
        add_row(rows, each.candidate.artifact, f"{each.candidate.engine}{where}", each.reason)
    return ["", styled("not run", style="bold"), rows]
