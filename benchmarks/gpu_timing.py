"""How the scripts for a GPU measure: CUDA events around calls and replays of CUDA graphs, and wall-clock rates.

A time is the median of `REPEATS`, in microseconds. Contenders of one table are measured in turns where a function takes
several: a clock that changes then changes for all of them.

A CUDA graph holds only what was launched on the stream of its capture. ``torchvision.ops.deform_conv2d`` (0.26) samples
by a kernel on the default stream, whatever the current one is: a graph lacks that kernel, gives wrong results, and is
too fast. Calls of it are measured by `queued_microseconds` instead, or in turns among the ``queued``.
"""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Container, Mapping
from typing import TypeVar

import torch

REPEATS = 30
WARM_UP = 5
PAUSES = (30_000_000, 150_000_000)
"""Clocks that the GPU waits while the host launches; the second where the first, about 17 ms, is too short."""

Call = Callable[[], object]
Result = TypeVar("Result")


def captured(call: Call, times: int = 1) -> torch.cuda.CUDAGraph:
    """Return a CUDA graph of one call, or of several one after the other."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(times):
                call()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


def once_microseconds(call: Call) -> float:
    """Return the time of one call on the GPU's current stream, which does nothing else."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def queued_once_microseconds(call: Call, times: int = 1) -> float:
    """Return the time of a call on the GPU alone: it begins when the host has launched everything.

    ``times`` calls are launched, and the time divided by that. NaN where the host needs the GPU's answer in between,
    or launches more than the GPU's queue holds, about a thousand kernels.
    """
    for pause in PAUSES:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(pause)
        start.record()
        for _ in range(times):
            call()
        began = start.query()
        end.record()
        torch.cuda.synchronize()
        if not began:
            return float(start.elapsed_time(end)) * 1e3 / times
    return math.nan


def queued_microseconds(call: Call, times: int = 1, repeats: int = REPEATS) -> float:
    """Return the median time of a call on the GPU alone, of ``times`` calls in a row."""
    for _ in range(WARM_UP):
        call()
    return statistics.median(queued_once_microseconds(call, times) for _ in range(repeats))


def in_turns(
    calls: Mapping[str, Call], repeats: int = REPEATS, queued: Container[str] = frozenset()
) -> dict[str, float]:
    """Return the median time of each call, all of them measured in turns; of those ``queued`` that on the GPU alone."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + WARM_UP):
        for name, call in calls.items():
            taken = queued_once_microseconds(call) if name in queued else once_microseconds(call)
            if turn >= WARM_UP:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def event_microseconds(call: Call, repeats: int = REPEATS) -> float:
    """Return the median time of a call on the GPU's current stream."""
    return in_turns({"": call}, repeats)[""]


def with_result(call: Callable[[], Result], measure: Callable[[Call], float]) -> tuple[float, Result]:
    """Return what ``measure`` says of a call, and the last result of what it measured: in a graph, of its replays."""
    results: list[Result] = []

    def kept() -> None:
        results[:] = [call()]

    return measure(kept), results[0]


def graph_microseconds(call: Call) -> float:
    """Return the median time of a replay of a CUDA graph that holds one call."""
    return event_microseconds(captured(call).replay)


def rates_in_turns(runs: Mapping[str, Callable[[], int]], seconds: float = 0.5, rounds: int = 3) -> dict[str, float]:
    """Return how many images a second each call gets done by wall-clock time: the median of several turns."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rates[name].append(images_per_second(run, seconds))
    return {name: statistics.median(found) for name, found in rates.items()}


def images_per_second(run: Callable[[], int], seconds: float = 1.5) -> float:
    """Return how many images a second a call gets done, by wall-clock time after a warm-up."""
    run()
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        done += run()
    return done / (time.perf_counter() - start)


def wall_in_turns(calls: Mapping[str, Call], repeats: int = REPEATS) -> dict[str, float]:
    """Return the median wall-clock time of each call that waits for its result, in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e6)
    return {name: statistics.median(taken) for name, taken in times.items()}


def machine() -> str:
    """Return date, GPU, processor and versions, for the head of a table."""
    import cv2
    import numpy as np
    import torchvision

    return (
        f"{datetime.date.today()}, {torch.cuda.get_device_name()}, {platform.processor() or 'CPU'} with"
        f" {torch.get_num_threads()} threads of {os.cpu_count()}\n"
        f"torch {torch.__version__}, torchvision {torchvision.__version__}, cuDNN {torch.backends.cudnn.version()},"
        f" OpenCV {cv2.__version__}, numpy {np.__version__}; command: {' '.join(sys.argv)}"
    )
