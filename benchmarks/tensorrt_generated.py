"""Random ONNX graphs through NVIDIA's parser and the replay, against ONNX Runtime: count, time, disagreements.

    python benchmarks/tensorrt_generated.py [--first SEED] [--count N]

Needs TensorRT-RTX, and no GPU. Ends with exit code 1 where a disagreement is not one of the known faults of the parser.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.generated import generate, inputs_of

from convkit.backends.tensorrt import Parting, Task, find_flavour, run_tasks, understand
from convkit.errors import ConversionError


@dataclass
class Report:
    """What came of the graphs: how many were compared, and the seeds of those that were not or differ."""

    compared: int = 0
    seconds: float = 0.0
    refused: dict[int, str] = field(default_factory=dict)
    not_replayed: dict[int, str] = field(default_factory=dict)
    without_reference: dict[int, str] = field(default_factory=dict)
    known: dict[int, str] = field(default_factory=dict)
    unexplained: dict[int, str] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    operators: Counter[str] = field(default_factory=Counter)


def known_fault(parting: Parting, model: onnx.ModelProto) -> bool:
    """Tell whether two part at a fault of docs/tensorrt.md: a pool that rounds up has a window too many."""
    if parting.operator not in ("MaxPool", "AveragePool") or "the shape" not in parting.verdict.note:
        return False
    return any(item.name == "ceil_mode" and item.i == 1 for item in model.graph.node[parting.node].attribute)


def compare(first: int, count: int) -> Report:
    """Compare the graphs of these seeds."""
    began = time.perf_counter()
    report = Report()
    seeds = range(first, first + count)
    models = {seed: generate(seed) for seed in seeds}
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for seed, model in models.items():
            onnx.save(model, Path(folder) / f"{seed}.onnx")
            tasks.append(Task(Path(folder) / f"{seed}.onnx", read=True))
        outcomes = run_tasks(find_flavour("tensorrt-rtx"), tasks)
    for (seed, model), outcome in zip(models.items(), outcomes, strict=True):
        if outcome.problem is not None:
            report.problems[seed] = str(outcome.problem)
        elif outcome.network is None:
            report.refused[seed] = str(outcome.errors[0])
        else:
            try:
                found = understand(outcome.network, model, [inputs_of(seed)])
            except ConversionError as error:
                report.without_reference[seed] = error.message
                continue
            if found.not_replayed:
                report.not_replayed[seed] = found.not_replayed[0]
                continue
            report.compared += 1
            report.operators.update(node.op_type for node in model.graph.node)
            if found.parting is not None:
                table = report.known if known_fault(found.parting, model) else report.unexplained
                table[seed] = str(found.parting)
    report.seconds = time.perf_counter() - began
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Random ONNX graphs through NVIDIA's parser and the replay.")
    parser.add_argument("--first", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--count", type=int, default=400, help="number of graphs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = compare(options.first, options.count)
    print(f"{report.compared} graphs of {len(report.operators)} operators compared in {report.seconds:.1f} s")
    for title, table in (
        ("refused by the parser", report.refused),
        ("not replayed", report.not_replayed),
        ("run by nothing as ONNX means them", report.without_reference),
        ("with a known fault of the parser", report.known),
        ("ended the process", report.problems),
        ("with an unexplained disagreement", report.unexplained),
    ):
        print(f"{len(table):4d} {title}")
        if table is report.unexplained or table is report.problems:
            for seed, text in table.items():
                print(f"     seed {seed}: {text}")
    return 1 if report.unexplained or report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
