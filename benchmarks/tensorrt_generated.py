"""Random ONNX graphs through NVIDIA's parser and the replay, against ONNX Runtime: count, time, disagreements.

    python benchmarks/tensorrt_generated.py [--first SEED] [--count N] [--half]

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

import numpy as np
import onnx
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.generated import generate, in_half, inputs_of

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
    """Tell whether two part at a fault of docs/tensorrt.md: pools that round up, and the mean of float16 inputs."""
    if parting.operator == "Mean":
        return model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    if parting.operator not in ("MaxPool", "AveragePool") or "the shape" not in parting.verdict.note:
        return False
    return any(item.name == "ceil_mode" and item.i == 1 for item in model.graph.node[parting.node].attribute)


def valid(model: onnx.ModelProto) -> bool:
    """Tell whether ONNX takes a model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def compare(first: int, count: int, *, half: bool = False) -> Report:
    """Compare the graphs of these seeds; ``half`` compares those in float16 that ONNX takes."""
    began = time.perf_counter()
    report = Report()
    seeds = range(first, first + count)
    models = {seed: generate(seed) for seed in seeds}
    if half:
        models = {
            seed: model for seed, model in ((seed, in_half(model)) for seed, model in models.items()) if valid(model)
        }
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
                inputs = inputs_of(seed)
                if half:
                    inputs = {name: value.astype(np.float16) for name, value in inputs.items()}
                found = understand(outcome.network, model, [inputs])
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
    parser.add_argument("--half", action="store_true", help="in float16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = compare(options.first, options.count, half=options.half)
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
