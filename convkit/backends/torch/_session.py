"""Sessions of the torch backend: arrays in and out, or everything on one CUDA stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convkit._dense import dense
from convkit._float64 import in_strips
from convkit._onnx_errors import onnx_errors
from convkit.backends import DeviceSession, Session
from convkit.backends.torch._node import Builder, Key, host_tensor
from convkit.backends.torch._program import Program
from convkit.backends.torch._siblings import joined_siblings
from convkit.errors import ConversionError, ConvkitError, EnvironmentProblem

if TYPE_CHECKING:
    import onnx

__all__ = ["TorchOnDevice", "TorchSession"]

_CONVOLUTIONS = ("Conv", "ConvTranspose", "DeformConv")


class TorchSession(Session):
    """A graph as torch calls.

    cuDNN runs without TF32 and with algorithms that repeat their results; where the sizes of the input
    are fixed it tries out the fastest. 4-d tensors are channels-last if told so, by default on CUDA where convolutions
    are 16-bit.
    """

    def __init__(
        self,
        model: Path | onnx.ModelProto,
        device: str,
        precision: str | None = None,
        channels_last: bool | None = None,
    ) -> None:
        import onnx

        self.device = device
        try:
            proto = onnx.load(str(model)) if isinstance(model, Path) else model
            if proto.functions:
                from onnx import inliner

                proto = inliner.inline_local_functions(proto)
            if not proto.graph.output:
                raise ValueError("it holds no graph with outputs")
        except onnx_errors() as error:
            raise EnvironmentProblem(
                f"The torch backend cannot load {getattr(model, 'name', 'the graph')}: {str(error).splitlines()[0]}",
                hint="The file is no ONNX model, or damaged; convert again.",
            ) from error
        dtype = None if precision is None else getattr(torch, precision)
        kind, _, index = device.partition(":")
        self.on = torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device(device)
        if channels_last is None:
            channels_last = self.on.type == "cuda" and (dtype is not None or _convolves_in_16_bits(proto))
        if channels_last and self.on.type == "cuda":
            proto = joined_siblings(proto)
        self._exact = dtype == torch.float64
        self.program = Program(proto, _operators(), self.on, dtype, channels_last)
        self._fixed = all(
            all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim[1:])
            for value in proto.graph.input
        )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name, in the types that the graph declares."""
        with self._running(inputs) as tensors:
            return {name: self.leave(name, value) for name, value in self.program.run(tensors).items()}

    def visit(self, inputs: Mapping[str, np.ndarray], take: Callable[[str, np.ndarray], object]) -> None:
        """Call ``take`` with each output as soon as it is computed, in the type that it has then."""

        def leave(name: str, value: Tensor) -> None:
            take(name, (value.float() if value.dtype == torch.bfloat16 else value).contiguous().cpu().numpy())

        with self._running(inputs) as tensors:
            self.program.run(tensors, leave)

    @contextmanager
    def _running(self, inputs: Mapping[str, np.ndarray]) -> Iterator[dict[str, Tensor]]:
        """Give the inputs as tensors to a block that runs the program, and explain its errors."""
        try:
            with self.settings():
                yield {name: self.enter(name, value) for name, value in inputs.items()}
        except ConvkitError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            where = f"{self.program.running}: " if self.program.running else ""
            raise ConversionError(
                f"The torch backend cannot run the model on {shapes}: {where}{text}",
                hint="The graph may hold a size as a number that was asked to vary; give that dimension one size.",
            ) from error

    def enter(self, name: str, value: np.ndarray) -> Tensor:
        """Return an input on the device in the type and layout in which the program takes it."""
        host = _host(value)
        tensor = host.to(self.on, self.program.entry(name) if name in self.program.inputs else None)
        if self.program.channels_last and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def leave(self, name: str, value: Tensor) -> np.ndarray:
        """Return an output on the host in the type that the graph declares (bfloat16 as float32)."""
        dtype = self.program.outputs[name]
        return value.to(torch.float32 if dtype == torch.bfloat16 else dtype).contiguous().cpu().numpy()

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Hold PyTorch's global switches where this session needs them."""
        if self.on.type != "cuda":
            with in_strips() if self._exact else nullcontext():
                yield
            return
        benchmark = self._fixed
        with (
            torch.cuda.device(self.on),
            torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, deterministic=True, allow_tf32=False),
        ):
            yield

    def on_device(self, stream: int) -> DeviceSession | None:
        """Return the device side on a CUDA stream; None for a session on the CPU."""
        return TorchOnDevice(self, stream) if self.on.type == "cuda" else None


class TorchOnDevice(DeviceSession):
    """The session on torch tensors and one stream; what runs on it can be captured."""

    def __init__(self, session: TorchSession, stream: int) -> None:
        self._session, self._program = session, session.program
        self._stream = torch.cuda.ExternalStream(stream, device=session.on)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return an uninitialised input tensor."""
        last = self._program.channels_last and len(shape) == 4
        return torch.empty(
            tuple(shape), dtype=self._program.entry(name), device=self._session.on,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )  # fmt: skip

    def fill(self, buffer: Tensor, values: np.ndarray) -> None:
        """Copy host values into an input tensor."""
        with torch.cuda.stream(self._stream):
            buffer.copy_(torch.from_numpy(dense(values)))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Enqueue the program; outputs keep their computed type, and are contiguous or channels-last."""
        with torch.cuda.stream(self._stream), self._session.settings():
            return {name: _dense(value) for name, value in self._program.run(inputs).items()}

    def fetch(self, outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Wait for the outputs and return them on the host."""
        with torch.cuda.stream(self._stream):
            return {name: self._session.leave(name, value) for name, value in outputs.items()}

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        """Capture what ``body`` enqueues in a CUDA graph; all graphs of the session share their memory."""
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with (
            torch.cuda.stream(self._stream),  # a capture that fails would leave its stream the current one
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            body()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay


def _convolves_in_16_bits(model: onnx.ModelProto) -> bool:
    """Return whether a convolution of the graph has 16-bit weights."""
    from onnx import TensorProto

    narrow = {t.name for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16)}
    return any(node.op_type in _CONVOLUTIONS and not narrow.isdisjoint(node.input[1:2]) for node in model.graph.node)


def _host(value: np.ndarray) -> Tensor:
    """Return an array as a tensor that may share its memory, and is not written to."""
    array = dense(value)
    if not array.flags.writeable or array.dtype.name == "bfloat16":
        return host_tensor(array)
    return torch.from_numpy(array)


def _dense(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps and in an order that kernels know; a view in another order is copied."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor
    return tensor.contiguous()


def _operators() -> dict[Key, Builder]:
    """Return every operator that plugins offer; of two for the same key the plugin called first wins."""
    from convkit.plugins import manager

    table: dict[Key, Builder] = {}
    for found in manager().gather("convkit_torch_operators").values():
        for key, builder in found:
            table.setdefault(key, builder)
    return table
