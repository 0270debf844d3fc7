"""An engine that is timed, in the process that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from convkit.benchmarking._candidates import NETWORK
from convkit.benchmarking._memory import MemoryWatch
from convkit.benchmarking._result import Memory, Run
from convkit.benchmarking._stopwatch import EventClock, Stopwatch, WallClock
from convkit.cuda import find_device
from convkit.processing import collate
from convkit.proof import GoldenSamples
from convkit.runtime import DevicePredictor, Predictor, load

__all__ = ["Subject"]

STREAMED = 8
"""Batches of the stream that measures the throughput where batches overlap."""


class Subject:
    """An artifact loaded on a backend and a device, with its stored raw inputs; see `load` for what it raises.

    `prepare` chooses what is run, `once` runs it, and `finish` tells what was taken.
    """

    def __init__(self, artifact: str, backend: str, device: str, *, unproved: bool) -> None:
        start = time.perf_counter()
        found: tuple[Any, int] = find_device(device) if device.startswith("cuda") else (None, 0)
        self._cupy, index = found
        self._memory = MemoryWatch(self._cupy, index)
        self._predictor: Predictor = load(artifact, backend=backend, device=device, unproved=unproved)
        self._load = time.perf_counter() - start
        self._memory.loaded()
        opened = self._predictor.artifact
        self._raws = list(GoldenSamples.load(opened.path, self._predictor.spec, opened.manifest["files"]).raws)
        self._call: Callable[[], object] = lambda: None
        self._clock: Stopwatch = WallClock()
        self._current: Callable[[], AbstractContextManager[None]] = nullcontext
        self._stream: Callable[[], object] | None = None

    def prepare(self, scope: str, batch: int, warm_up: int) -> Run:
        """Choose what is run, and run it as often as warms it up.

        Raises:
            ConvkitError: the engine does not take the stored inputs, or fails on them.
        """
        raws = [self._raws[index % len(self._raws)] for index in range(batch)]
        self._clock, self._current, self._stream = WallClock(), nullcontext, None
        if scope == NETWORK:
            self._prepare_network(raws)
        else:
            self._prepare_pipeline(raws, batch)
        self._memory.reset()
        times = tuple(self.once() for _ in range(warm_up))
        return Run(self._load, times, self._clock.name, self._predictor.unproved)

    def once(self) -> float:
        """Return the seconds of one run."""
        with self._current():
            return self._clock.seconds(self._call)

    def finish(self) -> tuple[Memory, float | None]:
        """Return the memory of the runs, and batches a second of a stream of them where they overlap; else None."""
        rate = STREAMED / WallClock().seconds(self._stream) if self._stream else None
        return self._memory.read(), rate

    def _prepare_network(self, raws: Sequence[Any]) -> None:
        predictor = self._predictor
        feed = collate(predictor.spec.inputs, [predictor.prepare(raw) for raw in raws])
        if isinstance(predictor, DevicePredictor) and predictor.pipeline is not None:
            self._prepare_device(predictor, feed)
        else:
            self._call = lambda: predictor.session.run(feed)

    def _prepare_device(self, predictor: DevicePredictor, feed: dict[str, np.ndarray]) -> None:
        """Run the engine on arrays that lie on the GPU: by a CUDA graph where it can be captured."""
        assert predictor.pipeline is not None
        device, engine = predictor.pipeline.device, predictor.pipeline.engine
        self._current, self._clock = device.active, EventClock(self._cupy, device.stream)
        with device.active():
            buffers = {name: engine.buffer(name, value.shape) for name, value in feed.items()}
            for name, value in feed.items():
                engine.fill(buffers[name], value)

            def body() -> None:
                engine.run(buffers)

            for _ in range(2):  # what is captured has to have run before
                body()
            device.synchronize()
            self._call = engine.capture(body) or body

    def _prepare_pipeline(self, raws: Sequence[Any], batch: int) -> None:
        predictor = self._predictor
        stream = predictor.stream if predictor.decodes else predictor.stream_outputs
        self._call = lambda: list(stream(raws, batch=batch))
        if predictor.decodes and isinstance(predictor, DevicePredictor) and predictor.pipeline is not None:
            self._stream = lambda: list(stream([*raws] * STREAMED, batch=batch))
