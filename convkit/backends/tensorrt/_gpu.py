"""The GPU that engines run on, by cupy: memory, copies and CUDA graphs on any stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from convkit.cuda import find_device
from convkit.errors import EnvironmentProblem

__all__ = ["Gpu", "local_target"]


def local_target() -> str:
    """Return the compute capability of this machine's first GPU as a target (``sm86``), or an empty string."""
    try:
        return Gpu("cuda").target
    except EnvironmentProblem:
        return ""


class _Foreign:
    """A stream that is known by its address, in CUDA's protocol of streams."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


class Gpu:
    """One GPU. Streams are addresses (``cudaStream_t``); nothing but `download` waits.

    Raises:
        EnvironmentProblem: ``device`` is no GPU, cupy is missing, or the driver shows no such GPU.
    """

    def __init__(self, device: str) -> None:
        cupy, self.index = find_device(device)
        self._cupy, self._device = cupy, cupy.cuda.Device(self.index)
        properties = cupy.cuda.runtime.getDeviceProperties(self.index)
        self.name: str = properties["name"].decode()
        self.compute_capability = f"{properties['major']}.{properties['minor']}"
        self.target = f"sm{properties['major']}{properties['minor']}"
        self.driver = str(cupy.cuda.runtime.driverGetVersion())

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this GPU the current one of the thread."""
        with self._device:
            yield

    def new_stream(self) -> Any:
        """Return a stream; ``ptr`` is its address, and it lives as long as the object."""
        with self._device:
            return self._cupy.cuda.Stream(non_blocking=True)

    def empty(self, shape: Sequence[int], dtype: str, stream: int) -> Any:
        """Return an uninitialised contiguous array, whose memory is used again in the order of a stream."""
        with self._on(stream):
            return self._cupy.empty(tuple(shape), dtype)

    def adopt(self, value: Any, stream: int) -> Any:
        """Return an array that has ``__dlpack__`` as a cupy array of the same memory, ready on a stream."""
        with self._on(stream):
            return self._cupy.from_dlpack(value)

    def upload(self, array: Any, values: np.ndarray, stream: int) -> None:
        """Enqueue a copy of host values into an array, converted to its type."""
        with self._on(stream) as external:
            array.set(np.asarray(values, array.dtype, order="C"), external)

    def download(self, array: Any, stream: int) -> np.ndarray:
        """Wait for an array and return it on the host."""
        with self._on(stream) as external:
            values: np.ndarray = array.get(external)
            external.synchronize()
        return values

    def capture(self, body: Callable[[], None], stream: int) -> Callable[[], None]:
        """Capture what ``body`` enqueues on a stream in a CUDA graph and return what replays it."""
        with self._on(stream) as external:
            external.begin_capture(self._cupy.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                body()
            except BaseException:
                with suppress(RuntimeError):  # it says no more than that the capture failed
                    external.end_capture()
                raise
            graph = external.end_capture()

        def replay() -> None:
            with self._on(stream) as external:
                graph.launch(external)

        return replay

    def free_memory(self, stream: int) -> int:
        """Wait for a stream and return the bytes of the GPU's memory that nobody uses."""
        with self._on(stream) as external:
            external.synchronize()
            return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def times(self, body: Callable[[], None], count: int, stream: int) -> list[float]:
        """Return how long each of ``count`` calls takes on a stream, in milliseconds as the GPU measures them."""
        with self._on(stream) as external:
            pairs = [(self._cupy.cuda.Event(), self._cupy.cuda.Event()) for _ in range(count)]
            for start, end in pairs:
                start.record(external)
                body()
                end.record(external)
            external.synchronize()
            return [float(self._cupy.cuda.get_elapsed_time(start, end)) for start, end in pairs]

    @contextmanager
    def _on(self, stream: int) -> Iterator[Any]:
        streams = self._cupy.cuda
        if hasattr(streams.Stream, "from_external"):
            external = streams.Stream.from_external(_Foreign(stream))
        else:  # before cupy 14
            external = streams.ExternalStream(stream, self.index)
        with self._device, external:
            yield external
