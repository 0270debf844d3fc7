"""Many programs: which are exported together and with which sizes, and what NVIDIA's parser makes of some."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from support.fuzz._program import Program, generate

from convkit.backends.tensorrt import Task, find_flavour, run_tasks, understand
from convkit.errors import ConversionError

__all__ = ["batches", "understood"]

_SIZES = (0, 0, 1, 0, 0, 2, 0, 0)
"""Of eight batches one has any batch and one any sizes, which takes PyTorch's exporter four times as long."""


def batches(first: int, count: int, together: int = 20, length: int = 5) -> Iterator[tuple[list[Program], int]]:
    """Yield the programs of the seeds from ``first`` on in batches, each with the place of its sizes."""
    for number, start in enumerate(range(first, first + count, together)):
        seeds = range(start, min(start + together, first + count))
        yield [generate(seed, length) for seed in seeds], _SIZES[number % len(_SIZES)]


def understood(graphs: Sequence[tuple[onnx.ModelProto, dict[str, np.ndarray]]]) -> tuple[int, list[str], list[str]]:
    """Return how many graphs TensorRT-RTX's parser understood, what differs, and what was not compared."""
    agreed, differing, left = 0, [], []
    with tempfile.TemporaryDirectory() as folder:
        tasks = []
        for place, (graph, _) in enumerate(graphs):
            onnx.save(graph, Path(folder) / f"{place}.onnx")
            tasks.append(Task(Path(folder) / f"{place}.onnx", read=True))
        outcomes = run_tasks(find_flavour("tensorrt-rtx"), tasks)
    for (graph, feeds), outcome in zip(graphs, outcomes, strict=True):
        if outcome.problem is not None or outcome.network is None:
            left.append(str(outcome.problem or outcome.errors[0]))
            continue
        try:
            found = understand(outcome.network, graph, [feeds])
        except ConversionError as error:
            left.append(error.message)
            continue
        if found.not_replayed:
            left.append(found.not_replayed[0])
        elif found.parting is not None:
            differing.append(str(found.parting))
        else:
            agreed += 1
    return agreed, differing, left
