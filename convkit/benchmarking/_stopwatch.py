"""How long a call takes: by the wall clock, or on a CUDA stream by events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["EventClock", "Stopwatch", "WallClock"]


class Stopwatch(Protocol):
    """Times calls."""

    name: str

    def seconds(self, call: Callable[[], object]) -> float:
        """Return how long a call takes."""
        ...


class WallClock:
    """The time from before a call to behind it, as the caller waits."""

    name = "wall clock"

    def seconds(self, call: Callable[[], object]) -> float:
        """Return how long a call takes."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class EventClock:
    """The time that a GPU spends on what a call enqueues on a stream (its address), between two events.

    ``cupy`` is the module; its current device is that of the stream.
    """

    name = "CUDA events"

    def __init__(self, cupy: Any, stream: int) -> None:
        self._cupy = cupy
        self._stream = cupy.cuda.ExternalStream(stream)

    def seconds(self, call: Callable[[], object]) -> float:
        """Return how long the work of a call takes on the GPU, which is idle before."""
        start, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        self._stream.synchronize()
        start.record(self._stream)
        call()
        end.record(self._stream)
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, end)) / 1e3
