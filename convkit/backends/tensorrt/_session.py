"""Sessions of TensorRT's engines: arrays of the host, or arrays of the GPU on the caller's stream."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from convkit.backends import DeviceSession, Session
from convkit.backends.tensorrt._gpu import Gpu
from convkit.backends.tensorrt._runtime import Context, EngineTensor, NotRun, RuntimeEngine, Shape
from convkit.cuda import ArrayView
from convkit.errors import ConversionError, KernelArgumentError

__all__ = ["TensorRTOnDevice", "TensorRTSession"]

ALIGNMENT = 256
"""TensorRT takes addresses that are multiples of so many bytes."""
KEPT = 16
"""Combinations of input shapes whose outputs are kept, least recently used out."""


class TensorRTSession(Session):
    """An engine on one GPU.

    Threads may share a session: `run` lets them take turns on one stream, and every `on_device` has execution contexts
    of its own, so that each thread that takes one runs beside the others.
    """

    def __init__(self, engine: RuntimeEngine, gpu: Gpu, device: str) -> None:
        self.device = device
        self._engine, self._gpu = engine, gpu
        self._lock = threading.Lock()
        self._stream: Any = None
        self._host: TensorRTOnDevice | None = None

    @property
    def gpu(self) -> Gpu:
        """The GPU that it runs on."""
        return self._gpu

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name.

        Raises:
            ConversionError: an input is missing or unknown, or no profile of the engine contains its shape.
            EnvironmentProblem: the library or the GPU fails.
        """
        with self._lock, self._gpu.active():
            if self._host is None:
                self._stream = self._gpu.new_stream()
                self._host = TensorRTOnDevice(self._engine, self._gpu, int(self._stream.ptr))
            host = self._host
            buffers = {}
            for name, value in inputs.items():
                buffers[name] = host.buffer(name, value.shape)
                host.fill(buffers[name], value)
            return host.fetch(host.run(buffers))

    def on_device(self, stream: int) -> DeviceSession | None:
        """Return a device side on a stream, with execution contexts of its own."""
        return TensorRTOnDevice(self._engine, self._gpu, stream)

    def close(self) -> None:
        """Keep the kernels that were compiled for the next session; free the stream and contexts of `run`."""
        with self._gpu.active():
            self._engine.save_cache()
            self._host = self._stream = None


class _Contexts:
    """Execution contexts, one a profile, and the outputs that they write, one set for each combination of shapes."""

    def __init__(self, engine: RuntimeEngine, gpu: Gpu, scratch: Any, stream: int, *, own_graphs: bool = False) -> None:
        self._engine, self._gpu, self._scratch, self._stream = engine, gpu, scratch, stream
        self._own_graphs = own_graphs
        self._contexts: dict[int, Context] = {}
        self._outputs: OrderedDict[tuple[tuple[str, Shape], ...], dict[str, Any]] = OrderedDict()

    def get(self, profile: int, shapes: Mapping[str, Shape]) -> tuple[Context, dict[str, Any]]:
        """Return the context of a profile, set to these shapes, and its outputs."""
        if profile not in self._contexts:
            scratch = ArrayView.of("scratch", self._scratch).address
            self._contexts[profile] = self._engine.context(profile, scratch, self._stream, own_graphs=self._own_graphs)
        context = self._contexts[profile]
        context.reshape(shapes)
        key = tuple(shapes.items())
        if key not in self._outputs:
            self._outputs[key] = {
                tensor.name: self._gpu.empty(context.output_shape(tensor.name), tensor.dtype, self._stream)
                for tensor in self._engine.tensors
                if not tensor.is_input
            }
        self._outputs.move_to_end(key)
        while len(self._outputs) > KEPT:
            self._outputs.popitem(last=False)
        return context, self._outputs[key]

    def capturable(self) -> bool:
        """Return whether all contexts can be captured on the stream."""
        return all(context.capturable(self._stream) for context in self._contexts.values())


class TensorRTOnDevice(DeviceSession):
    """An engine on one stream; belongs to one thread at a time.

    Inputs are contiguous arrays in the engine's types, of torch, cupy or any library with
    ``__cuda_array_interface__`` or DLPack. All its contexts share one piece of scratch memory, since they run one after
    the other. A captured graph has contexts of its own: using the context of a captured graph otherwise would change
    what the graph does.
    """

    def __init__(self, engine: RuntimeEngine, gpu: Gpu, stream: int) -> None:
        self._engine, self._gpu, self._stream = engine, gpu, stream
        self._inputs = {tensor.name: tensor for tensor in engine.tensors if tensor.is_input}
        self._scratch = gpu.empty((max(engine.scratch, 1),), "uint8", stream)
        self._contexts, self._own_graphs = self._new_contexts(), False

    def buffer(self, name: str, shape: Sequence[int]) -> Any:
        """Return an uninitialised contiguous array in the type of an input."""
        return self._gpu.empty(shape, self._input(name).dtype, self._stream)

    def fill(self, buffer: Any, values: np.ndarray) -> None:
        """Enqueue a copy of host values into a buffer."""
        self._gpu.upload(buffer, values, self._stream)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Enqueue the engine and return its outputs; they hold until the next run of these shapes.

        Raises:
            ConversionError: an input is missing or unknown, or no profile of the engine contains the shapes.
            KernelArgumentError: an array is of another type or GPU, not contiguous, or not aligned to 256 bytes.
            EnvironmentProblem: the library fails; the error quotes its log.
        """
        views = {name: self._view(self._input(name), value) for name, value in inputs.items()}
        missing = self._inputs.keys() - views.keys()
        if missing:
            raise ConversionError(
                f"The engine lacks its input {', '.join(sorted(missing))}.", hint="Give every input of the model."
            )
        shapes = {name: view.shape for name, view in sorted(views.items())}
        with self._gpu.active():
            context, outputs = self._contexts.get(self._profile(shapes), shapes)
            addresses = {name: view.address for name, view in views.items()}
            addresses |= {name: ArrayView.of(name, value).address for name, value in outputs.items()}
            context.enqueue(addresses, self._stream)
        return dict(outputs)

    def fetch(self, outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Wait for outputs and return them on the host."""
        return {name: self._gpu.download(value, self._stream) for name, value in outputs.items()}

    def capture(self, body: Callable[[], None]) -> Callable[[], None] | None:
        """Capture what ``body`` enqueues in a CUDA graph.

        None if the engine cannot be captured; TensorRT-RTX then captures what it can of the engine by itself.
        """
        if self._own_graphs:
            return None
        before, self._contexts = self._contexts, self._new_contexts()
        try:
            body()  # a context prepares itself during the first run, which cannot be captured
            contexts = self._contexts
            if contexts.capturable():
                launch = self._gpu.capture(body, self._stream)
                return lambda: _replay(launch, contexts)
        except NotRun:
            pass
        finally:
            self._contexts = before
        self._own_graphs, self._contexts = True, self._new_contexts(own_graphs=True)
        return None

    def _new_contexts(self, *, own_graphs: bool = False) -> _Contexts:
        return _Contexts(self._engine, self._gpu, self._scratch, self._stream, own_graphs=own_graphs)

    def _input(self, name: str) -> EngineTensor:
        if name not in self._inputs:
            raise ConversionError(
                f"The engine has no input {name!r}.", hint=f"Its inputs are {', '.join(self._inputs)}."
            )
        return self._inputs[name]

    def _view(self, tensor: EngineTensor, value: Any) -> ArrayView:
        """Return where an input lies, if the engine can read it there."""
        described = hasattr(value, "data_ptr") or hasattr(value, "__cuda_array_interface__")
        if not described and hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | ArrayView):
            value = self._gpu.adopt(value, self._stream)
        view = ArrayView.of(tensor.name, value)
        if view.dtype != tensor.dtype:
            raise KernelArgumentError(
                f"{tensor.name!r} is {view.dtype}; the engine takes {tensor.dtype}.", hint="Convert the array."
            )
        if view.device != self._gpu.index:
            raise KernelArgumentError(
                f"{tensor.name!r} is on GPU {view.device}, the engine on GPU {self._gpu.index}.",
                hint=f"Copy the array, or open the engine on cuda:{view.device}.",
            )
        view.check_contiguous(tensor.name)
        if view.address % ALIGNMENT:
            raise KernelArgumentError(
                f"{tensor.name!r} lies at an address that is no multiple of {ALIGNMENT} bytes.",
                hint="Copy the array: a part of a larger one may start anywhere.",
            )
        return view

    def _profile(self, shapes: Mapping[str, Shape]) -> int:
        """Return the profile that contains the shapes, of several the narrowest."""
        fitting = [
            (sum(prod(limits[name][-1]) for name in shapes), index)
            for index, limits in enumerate(self._engine.profiles)
            if all(_within(shape, *limits[name]) for name, shape in shapes.items())
        ]
        if not fitting:
            given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            ranges = "; ".join(
                ", ".join(f"{name} {list(low)} to {list(high)}" for name, (low, _, high) in limits.items())
                for limits in self._engine.profiles
            )
            raise ConversionError(
                f"The engine was not built for the shapes {given}.", hint=f"It was built for {ranges}."
            )
        return min(fitting)[1]


def _replay(launch: Callable[[], None], contexts: _Contexts) -> None:
    """Launch a captured graph, which lives as long as its contexts, outputs and scratch memory."""
    del contexts
    launch()


def _within(shape: Shape, low: Shape, best: Shape, high: Shape) -> bool:
    del best
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
