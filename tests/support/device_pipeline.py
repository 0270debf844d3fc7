"""A GPU made of NumPy for tests of the device pipeline, and CenterNet's device sides on kernels built for the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from support.decoding import run_launch

from convkit.cuda import ArrayView
from convkit.runtime import NOT_FINITE, Borrowed, FiniteOnDevice
from convkit.testing.cuda_host import run_on_host
from convkit_models.centernet._preprocess import AffineOnDevice
from convkit_models.centernet.tasks.ctdet import CudaDecode, Tuning, plan_decode

PRODUCER = 99
"""The stream in which arrays on the device were made."""


class NumpyDevice:
    """Runs at once what a GPU would run later, and records copies and events."""

    stream = 7

    def __init__(self) -> None:
        self.uploads: list[tuple[int, bool]] = []
        self.downloads = self.events = self.waits = 0
        self.waited: list[int] = []

    @contextmanager
    def active(self) -> Iterator[None]:
        yield

    def pinned(self, size: int) -> np.ndarray:
        return np.full(size, 0xA5, np.uint8)

    memory = pinned

    def view(self, memory: np.ndarray, offset: int, shape: Sequence[int], dtype: str) -> np.ndarray:
        assert offset % 16 == 0
        end = offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
        return memory[offset:end].view(dtype).reshape(tuple(shape))

    def borrow(self, array: np.ndarray) -> Borrowed:
        strides = tuple(step // array.itemsize for step in array.strides)
        return Borrowed(ArrayView(array.shape, strides, array.dtype.name, array.ctypes.data), array, PRODUCER)

    def wait_for(self, stream: int) -> None:
        assert stream == PRODUCER
        self.waits += 1

    def address(self, array: np.ndarray) -> int:
        return int(array.ctypes.data)

    def to_host(self, borrowed: Borrowed) -> np.ndarray:
        return np.array(borrowed.source)

    def upload(self, memory: np.ndarray, pinned: np.ndarray, size: int, *, concurrent: bool) -> None:
        self.uploads.append((size, concurrent))
        memory[:size] = pinned[:size]
        memory[size:] = 0xEE

    def download(self, pinned: np.ndarray, memory: np.ndarray) -> None:
        self.downloads += 1
        pinned[:] = memory

    def record(self) -> Callable[[], None]:
        number = self.events
        self.events += 1
        return lambda: self.waited.append(number)

    def synchronize(self) -> None:
        return


def layout(array: Any) -> tuple[np.ndarray, str, bool]:
    """Return the memory of a NumPy array or torch tensor, its dtype, and whether it is channels-last."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array), array.dtype.name, False
    if array.is_contiguous():
        return array.numpy(), str(array.dtype).removeprefix("torch."), False
    turned = array.permute(0, 2, 3, 1) if array.dim() == 4 else array.transpose(1, 2)
    assert turned.is_contiguous()
    return turned.numpy(), str(array.dtype).removeprefix("torch."), True


class WatchOnHost(FiniteOnDevice):
    """The check of outputs for NaN with its kernel on the host."""

    def launch(self, outputs: Mapping[str, Any], flags: Any, stream: int) -> None:
        assert stream == NumpyDevice.stream
        for number, output in enumerate(self.outputs):
            memory, dtype, _ = layout(outputs[output.name])
            if dtype not in ("float16", "bfloat16", "float32"):
                continue
            self.seen.add(output.name)
            batch = len(memory) if output.batched else 1
            variant = NOT_FINITE.variant(T=dtype, THREADS=32)
            found = np.full((batch, flags.shape[2]), -1, np.int32)
            size, stride = memory.size // batch, flags.shape[2]
            arguments = [np.ascontiguousarray(memory).reshape(-1), found.reshape(-1), size, stride]
            run_on_host(variant, variant.launch_config(batch=batch), arguments)
            assert (found >= 0).all(), "every block writes its flag"
            flags[:batch, number] = found


class HostAffine(AffineOnDevice):
    """The warp kernel on the host."""

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        assert stream == NumpyDevice.stream
        (output,) = tensors.values()
        warp, (batch, _, height, width) = self._warp, output.shape
        memory, dtype, last = layout(output)
        variant = warp.variant(dtype, last=last)
        launch = variant.launch_config(batch=batch, height=height, width=width)
        run_on_host(variant, launch, (records, payloads, warp.values(dtype), memory, warp.border, height, width))


class HostDecode(CudaDecode):
    """The decode kernel on the host."""

    def launch(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any], stream: int
    ) -> None:
        assert stream == NumpyDevice.stream
        known, memory = {}, {}
        for name, value in outputs.items():
            memory[name], dtype, _ = layout(value)
            numpy = isinstance(value, np.ndarray)
            strides = tuple(n // value.itemsize for n in memory[name].strides) if numpy else tuple(value.stride())
            known[name] = ArrayView(tuple(value.shape), strides, dtype)
        call = plan_decode(self._spec, known, Tuning(threads=64, unroll=2, groups=2))
        scratch = {name: np.zeros(count, dtype) for name, (dtype, count) in call.scratch.items()}
        run_launch(call, {**memory, **inputs, **results, **scratch})
