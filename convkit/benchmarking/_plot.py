"""A benchmark as a picture: latency and throughput against the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convkit._figures import check_plot, drawn_figure
from convkit.benchmarking._result import Benchmark, Cell

__all__ = ["check_plot", "write_plot"]

_SIZE = (10.0, 4.4)


def write_plot(benchmark: Benchmark, file: Path) -> None:
    """Draw the median latency with its range up to the 90th percentile, and the throughput, of each engine and scope.

    Raises:
        SettingError, EnvironmentProblem: see `check_plot`.
        OutputError: the file cannot be written.
    """
    with drawn_figure(file, _SIZE) as figure:
        left, right = figure.subplots(1, 2)
        for label, cells in _lines(benchmark).items():
            batches = [cell.batch for cell in cells]
            middle = [cell.latency["p50"] for cell in cells]
            reach = [cell.latency["p90"] - cell.latency["p50"] for cell in cells]
            left.errorbar(batches, middle, yerr=[[0.0] * len(reach), reach], marker="o", capsize=3, label=label)
            right.plot(batches, [cell.items_per_second for cell in cells], marker="o", label=label)
        _axes(left, "latency of a batch, ms: median, up to p90", _all_batches(benchmark))
        _axes(right, "items a second", _all_batches(benchmark))
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
        figure.suptitle(_title(benchmark), fontsize=9)


def _lines(benchmark: Benchmark) -> dict[str, list[Cell]]:
    lines: dict[str, list[Cell]] = {}
    for cell in benchmark.cells:
        one = cell.candidate
        lines.setdefault(f"{Path(one.artifact).name}, {one.engine}, {cell.scope}", []).append(cell)
    return lines


def _all_batches(benchmark: Benchmark) -> list[int]:
    return sorted({cell.batch for cell in benchmark.cells})


def _axes(axes: Any, title: str, batches: list[int]) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("batch")
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)


def _title(benchmark: Benchmark) -> str:
    machine = benchmark.protocol["machine"]
    gpus = "; ".join(gpu["name"] for gpu in benchmark.protocol.get("gpu", ()))
    return f"{gpus or machine['cpu']}, {benchmark.protocol['threads']} threads, {benchmark.protocol['started'][:10]}"
