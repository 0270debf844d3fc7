"""A GPU's time is that between two events around what was enqueued, and not that of the host."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.device_pipeline import NumpyDevice

import convkit.benchmarking._subject as module
from convkit.benchmarking._stopwatch import EventClock, WallClock
from convkit.runtime import DevicePredictor, load


class FakeGpu:
    """What cupy offers of events, with a clock that only work moves; ``log`` is what happened."""

    def __init__(self) -> None:
        self.now_ms, self.log, self.free, self.current = 0.0, [], [500, 1000], 0
        gpu = self

        class Event:
            def __init__(self) -> None:
                self.at: float | None = None

            def record(self, stream: Any) -> None:
                gpu.log.append(f"record on {stream.address}")
                self.at = gpu.now_ms

            def synchronize(self) -> None:
                gpu.log.append("wait for the event")

        class ExternalStream:
            def __init__(self, address: int) -> None:
                self.address = address

            def synchronize(self) -> None:
                gpu.log.append("wait for the stream")

        self.cuda = SimpleNamespace(
            Event=Event,
            ExternalStream=ExternalStream,
            get_elapsed_time=lambda start, end: end.at - start.at,
            Device=self.device,
            runtime=SimpleNamespace(memGetInfo=lambda: (gpu.free[gpu.current], 4000)),
        )

    @contextmanager
    def device(self, index: int) -> Iterator[None]:
        self.current, before = index, self.current
        yield
        self.current = before

    def work(self, milliseconds: float) -> None:
        self.log.append("work")
        self.now_ms += milliseconds


def test_events_stand_around_the_call_on_its_stream():
    gpu = FakeGpu()
    clock = EventClock(gpu, 7)
    assert clock.seconds(lambda: gpu.work(2.5)) == pytest.approx(0.0025)
    assert gpu.log == ["wait for the stream", "record on 7", "work", "record on 7", "wait for the event"]


def test_the_wall_clock_measures_the_call(monkeypatch):
    ticks = iter([10.0, 10.75])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert WallClock().seconds(lambda: None) == 0.75


class FakeEngine:
    """A device session whose runs take 4 ms, and 1 ms as a replay of what was captured."""

    def __init__(self, gpu: FakeGpu, *, captures: bool) -> None:
        self.gpu, self.captures, self.filled = gpu, captures, {}

    def buffer(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape, np.float32)

    def fill(self, buffer: np.ndarray, values: np.ndarray) -> None:
        buffer[:] = values

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.filled = inputs
        self.gpu.work(4.0)
        return {}

    def capture(self, body: Any) -> Any:
        return (lambda: self.gpu.work(1.0)) if self.captures else None


class OnFakeGpu(DevicePredictor):
    """A loaded predictor that believes that its engine is on a GPU."""

    def __init__(self, path: Any, gpu: FakeGpu, engine: FakeEngine) -> None:
        self.__dict__.update(vars(load(path)))
        self.pipeline: Any = SimpleNamespace(device=NumpyDevice(), engine=engine)


@pytest.mark.parametrize("captures", [True, False])
def test_a_network_on_a_gpu_is_timed_by_events_and_captured_if_it_can_be(toy, toy_artifact, monkeypatch, captures):
    gpu = FakeGpu()
    engine = FakeEngine(gpu, captures=captures)
    monkeypatch.setattr(module, "find_device", lambda device: (gpu, 1))
    monkeypatch.setattr(module, "load", lambda path, **options: OnFakeGpu(path, gpu, engine))
    subject = module.Subject(str(toy_artifact.path), "torch", "cuda:1", unproved=False)
    run = subject.prepare("network", 3, 2)
    assert run.timer == "CUDA events"
    assert run.warm_up == pytest.approx((0.001, 0.001) if captures else (0.004, 0.004))
    assert engine.filled["images"].shape == (3, 3, 32, 32)
    assert np.abs(engine.filled["images"]).max() > 0, "the golden samples lie in the buffers"
    gpu.free = [0, 400]
    memory, rate = subject.finish()
    assert (memory.device, rate) == (600, None)
