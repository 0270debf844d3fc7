"""ONNX Runtime as a backend: the engine that runs everywhere."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from convkit.backends._backend import Backend, DeviceSession, Engine, Session
from convkit.errors import ConversionError, EnvironmentProblem, listing
from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np

__all__ = ["OnnxRuntime", "session_options"]


class OnnxRuntime(Backend):
    """Runs ``model.onnx`` on the CPU, or on CUDA where the installed build offers it."""

    name: ClassVar[str] = "onnxruntime"
    summary: ClassVar[str] = "ONNX Runtime (CPU and CUDA execution providers)"
    remedy = "pip install onnxruntime"

    def problem(self, device: str = "cpu") -> str:
        """Return what is missing: the package, or the execution provider of the device."""
        if not importlib.util.find_spec("onnxruntime"):
            return "the package onnxruntime is not installed."
        if device == "cpu":
            return ""
        from convkit._onnxruntime import onnxruntime

        try:
            _provider(device, onnxruntime.get_available_providers())
        except EnvironmentProblem as error:
            return f"{error.message} {error.hint}"
        return ""

    def unfit(self, precision: str, device: str) -> str:
        """Return that the CPU is no judge of 16-bit activations, which int8 graphs have, too."""
        if precision not in ("fp16", "bf16", "int8") or device != "cpu":
            return ""
        return (
            "on the CPU, ONNX Runtime computes most 16-bit operators in float32 without rounding their results,"
            " so it is no judge of a 16-bit graph"
        )

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        """Return an inference session with the execution provider of the device."""
        return _OnnxRuntimeSession(engine.file, device)

    def describe(self) -> dict[str, str]:
        """Return the version and the execution providers."""
        from convkit._onnxruntime import onnxruntime

        return {
            "version": onnxruntime.__version__,
            "execution providers": ", ".join(onnxruntime.get_available_providers()),
        }


class _OnnxRuntimeSession(Session):
    def __init__(self, model: Path, device: str) -> None:
        self.device = device
        self._session = _open(model, device)
        edges = (*self._session.get_inputs(), *self._session.get_outputs())
        if narrow := [value.name for value in edges if value.type == "tensor(bfloat16)"]:
            raise EnvironmentProblem(
                f"From Python, ONNX Runtime has no bfloat16 inputs and outputs: {listing(narrow)}.",
                hint="Use --backend torch, or convert without --io-precision.",
            )

    def on_device(self, stream: int) -> DeviceSession | None:
        """Return the session for arrays on its GPU."""
        return _OnnxRuntimeOnDevice(self._session, self.device, stream) if self.device.startswith("cuda") else None

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        from convkit._onnxruntime import ONNXRUNTIME_ERRORS

        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, dict(inputs))
        except ONNXRUNTIME_ERRORS as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise ConversionError(
                f"ONNX Runtime cannot run the model on {shapes}: {str(error).splitlines()[0]}",
                hint="The graph may hold a size as a number that was asked to vary; give that dimension one size.",
            ) from error
        return dict(zip(names, values, strict=True))


class _OnnxRuntimeOnDevice(DeviceSession):
    """A session on cupy arrays by I/O binding: nothing is copied.

    It runs on a stream of its own, so the host waits before and after it, and it is not captured in a CUDA graph. Given
    the caller's stream, ONNX Runtime 1.31 ended the process: it freed pinned memory in a callback of the stream, where
    CUDA permits no calls.
    """

    def __init__(self, session: Any, device: str, stream: int) -> None:
        self._session, self._stream = session, stream
        self._kind, _, index = device.partition(":")
        self._index = int(index or 0)
        self._types = {value.name: _dtype(value.type) for value in (*session.get_inputs(), *session.get_outputs())}
        self._outputs: dict[Any, dict[str, Any]] = {}

    def buffer(self, name: str, shape: Sequence[int]) -> Any:
        """Return an uninitialised input array."""
        import cupy

        return cupy.empty(tuple(shape), self._types[name])

    def fill(self, buffer: Any, values: np.ndarray) -> None:
        """Copy host values into an input array."""
        buffer.set(values.astype(buffer.dtype))

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model; the output arrays are made at the first run of a shape and used again."""
        import cupy

        cupy.cuda.runtime.streamSynchronize(self._stream)
        key = tuple((name, value.shape) for name, value in inputs.items())
        if key not in self._outputs:
            self._outputs[key] = self._first(inputs)
        outputs = self._outputs[key]
        binding = self._bind(inputs)
        for name, value in outputs.items():
            binding.bind_output(name, self._kind, self._index, value.dtype.type, value.shape, value.data.ptr)
        self._session.run_with_iobinding(binding)
        return outputs

    def fetch(self, outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Wait for the outputs and return them on the host."""
        return {name: value.get() for name, value in outputs.items()}

    def _first(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays for the outputs, whose shapes only a run can tell."""
        import cupy

        binding = self._bind(inputs)
        names = [output.name for output in self._session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._kind, self._index)
        self._session.run_with_iobinding(binding)
        shapes = {name: value.shape() for name, value in zip(names, binding.get_outputs(), strict=True)}
        return {name: cupy.empty(tuple(shape), self._types[name]) for name, shape in shapes.items()}

    def _bind(self, inputs: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_input(name, self._kind, self._index, value.dtype.type, value.shape, value.data.ptr)
        return binding


def _dtype(kind: str) -> str:
    """Return NumPy's name of a type that ONNX Runtime calls ``tensor(float16)``."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def session_options() -> Any:
    """Return the ``onnxruntime.SessionOptions`` of a session of this backend."""
    from convkit._onnxruntime import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Idle threads that spin take the cores from PyTorch, which runs in turns with this session.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without it, sums of int8 products overflow 16 bits on x86 processors that lack VNNI: 42 dB became 26.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if cores := _limited_cores():
        options.intra_op_num_threads = cores
    return options


def _open(model: Path, device: str) -> Any:
    """Return an inference session.

    Raises:
        EnvironmentProblem: this ONNX Runtime cannot run on the device, or cannot load the model.
    """
    from convkit._onnxruntime import ONNXRUNTIME_ERRORS, onnxruntime

    options = session_options()
    provider = _provider(device, onnxruntime.get_available_providers())
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=[provider])
    except ONNXRUNTIME_ERRORS as error:
        if foreign := _foreign_operators(model):
            raise ConversionError(
                f"ONNX Runtime has no operator {listing(foreign)}, which the graph holds.",
                hint="A domain of one's own has no kernels in ONNX Runtime: prove it with --backend torch (hook"
                " convkit_torch_operators), or let a translation or rewrite make standard operators.",
            ) from error
        raise EnvironmentProblem(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {model.name}: {str(error).splitlines()[0]}",
            hint="A newer ONNX Runtime, or --opset with a lower opset, may help; `convkit doctor` shows versions.",
        ) from error


def _limited_cores() -> int:
    """Return how many cores this process may use where these are not all of the machine, else 0.

    By itself ONNX Runtime makes a thread for each core of the machine, and binds them there. ``OMP_NUM_THREADS`` is how
    other libraries are told, and clusters tell their workers.
    """
    machine = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # behind it are those of nested loops
    if asked.isascii() and asked.isdigit() and int(asked):
        cores = min(cores, int(asked))
    return cores if cores < machine else 0


def _foreign_operators(model: Path) -> list[str]:
    """Return the operators of a graph that belong to no domain which ONNX Runtime knows; none where no file is."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(str(model), load_external_data=False)
    except (OSError, DecodeError):
        return []
    functions = {(function.domain, function.name) for function in graph.functions}
    return sorted(
        {
            f"{node.domain}::{node.op_type}"
            for node in graph.graph.node
            if node.domain not in _DOMAINS
            and not node.domain.startswith("com.microsoft")
            and (node.domain, node.op_type) not in functions
        }
    )


_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")


def _provider(device: str, available: list[str]) -> Any:
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return "CPUExecutionProvider"
    if kind == "cuda" and "CUDAExecutionProvider" in available:
        return ("CUDAExecutionProvider", {"device_id": int(index or 0)})
    raise EnvironmentProblem(
        f"This ONNX Runtime cannot run on {device!r}; it offers {', '.join(available)}.",
        hint="Use --device cpu, or install onnxruntime-gpu in place of onnxruntime.",
    )


@hookimpl
def convkit_backends() -> Iterable[Backend]:
    """Offer ONNX Runtime."""
    return [OnnxRuntime()]
