"""A CUDA device by cupy: memory, a compute stream, a copy stream, and events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from convkit.cuda import ArrayView, current_stream, find_device
from convkit.errors import InputError, KernelArgumentError
from convkit.runtime._buffers import Borrowed

__all__ = ["Cuda", "on_gpu"]

_CUDA, _MANAGED = 2, 13  # DLDeviceType of dlpack.h


def on_gpu(value: Any) -> bool:
    """Return whether a value is an array in a GPU's memory: of torch, cupy or anything else that shares its arrays."""
    if isinstance(value, np.ndarray | str | Path | bytes):
        return False
    if hasattr(value, "is_cuda"):
        return bool(value.is_cuda)
    if hasattr(value, "__dlpack_device__"):
        return value.__dlpack_device__()[0] in (_CUDA, _MANAGED)
    return hasattr(value, "__cuda_array_interface__")


class Cuda:
    """One GPU with a stream of its own, on which all work of a pipeline runs in order.

    Raises:
        EnvironmentProblem: cupy is missing, or there is no such GPU.
    """

    def __init__(self, device: str) -> None:
        self._cupy, index = find_device(device)
        self._device = self._cupy.cuda.Device(index)
        with self._device:
            self._stream, self._copies = (self._cupy.cuda.Stream(non_blocking=True) for _ in range(2))

    @property
    def stream(self) -> int:
        """The address of the stream (``cudaStream_t``)."""
        return int(self._stream.ptr)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the GPU and its stream the current ones of this thread."""
        with self._device, self._stream:
            yield

    def pinned(self, size: int) -> np.ndarray:
        """Return page-locked host memory, uint8 [size], uninitialised."""
        memory = self._cupy.cuda.alloc_pinned_memory(max(size, 1))
        return np.frombuffer(memory, np.uint8, size)

    def memory(self, size: int) -> Any:
        """Return device memory, uint8 [size], uninitialised."""
        with self._device:
            return self._cupy.empty(max(size, 1), self._cupy.uint8)

    def view(self, memory: Any, offset: int, shape: Sequence[int], dtype: str) -> Any:
        """Return an array in ``memory`` that starts at a byte offset."""
        return self._cupy.ndarray(tuple(shape), dtype, memory.data + offset)

    def borrow(self, array: Any) -> Borrowed:
        """Return an array in this GPU's memory as the kernels see it, and the stream in which it was made.

        Raises:
            InputError: it is on another GPU, or cannot be taken over.
        """
        kind = type(array).__name__
        try:
            # What is neither of torch nor of cupy is taken over on the pipeline's own stream, which then waits for it.
            stream = current_stream(array)
            if stream is None:
                with self.active():
                    shares = hasattr(array, "__dlpack__")
                    array = self._cupy.from_dlpack(array) if shares else self._cupy.asarray(array)
            view = ArrayView.of("input", array)
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError, KernelArgumentError) as error:
            raise InputError(
                f"A {kind} cannot be taken over: {(str(error).splitlines() or [''])[0]}",
                hint="Give an array of a plain number type in the memory of this GPU.",
            ) from error
        if view.device != self._device.id:
            raise InputError(
                f"A {kind} is on cuda:{view.device}, but the model runs on cuda:{self._device.id}.",
                hint=f"Move it there, or load the artifact with device='cuda:{view.device}'.",
            )
        return Borrowed(view, array, stream)

    def wait_for(self, stream: int) -> None:
        """Let the work that is enqueued later wait for what is in another stream now."""
        self._stream.wait_event(self._event(self._cupy.cuda.ExternalStream(stream)))

    def address(self, array: Any) -> int:
        """Return where an array of `view` begins."""
        return int(array.data.ptr)

    def to_host(self, borrowed: Borrowed) -> np.ndarray:
        """Return a copy in host memory."""
        array = borrowed.source
        with self.active():
            if borrowed.stream is not None:
                self.wait_for(borrowed.stream)
            return np.asarray(
                self._cupy.asnumpy(self._cupy.asarray(array.detach() if hasattr(array, "detach") else array))
            )

    def upload(self, memory: Any, pinned: np.ndarray, size: int, *, concurrent: bool) -> None:
        """Enqueue a copy of ``size`` bytes to the device; work that is enqueued later waits for it.

        With ``concurrent`` the copy does not wait for the work that is in the stream already.
        """
        stream = self._copies if concurrent else self._stream
        memory.data.copy_from_host_async(pinned.ctypes.data, size, stream)
        if concurrent:
            self._stream.wait_event(self._event(self._copies))

    def download(self, pinned: np.ndarray, memory: Any) -> None:
        """Enqueue a copy of ``memory`` to the host."""
        memory.data.copy_to_host_async(pinned.ctypes.data, pinned.nbytes, self._stream)

    def record(self) -> Callable[[], None]:
        """Record an event behind the work in the stream and return the function that waits for it."""
        wait: Callable[[], None] = self._event(self._stream).synchronize
        return wait

    def synchronize(self) -> None:
        """Wait for everything in the stream."""
        self._stream.synchronize()

    def _event(self, stream: Any) -> Any:
        event = self._cupy.cuda.Event(block=False, disable_timing=True)
        event.record(stream)
        return event
