"""ONNX Runtime as a backend: the engine that runs everywhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from convkit.backends import Backend, Session
from convkit.errors import ConversionError, EnvironmentProblem
from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    import numpy as np

__all__ = ["OnnxRuntime"]


class OnnxRuntime(Backend):
    """Runs ``model.onnx`` on the CPU, or on CUDA where the installed build offers it."""

    name: ClassVar[str] = "onnxruntime"
    summary: ClassVar[str] = "ONNX Runtime (CPU and CUDA execution providers)"

    def problem(self, device: str = "cpu") -> str:
        """Return what is missing: the package, or the execution provider of the device."""
        if not importlib.util.find_spec("onnxruntime"):
            return "the package onnxruntime is not installed."
        if device == "cpu":
            return ""
        import onnxruntime

        try:
            _provider(device, onnxruntime.get_available_providers())
        except EnvironmentProblem as error:
            return f"{error.message} {error.hint}"
        return ""

    def open(self, model: Path, *, device: str = "cpu") -> Session:
        """Make an inference session with the execution provider of the device."""
        return _OnnxRuntimeSession(model, device)

    def describe(self) -> dict[str, str]:
        """Return the version and the execution providers."""
        import onnxruntime

        return {
            "version": onnxruntime.__version__,
            "execution providers": ", ".join(onnxruntime.get_available_providers()),
        }


class _OnnxRuntimeSession(Session):
    def __init__(self, model: Path, device: str) -> None:
        import onnxruntime

        self.device = device
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Idle threads that spin take the cores from PyTorch, which runs in turns with this session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider = _provider(device, onnxruntime.get_available_providers())
        try:
            self._session = onnxruntime.InferenceSession(str(model), options, providers=[provider])
        except Exception as error:
            raise EnvironmentProblem(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {model.name}: {str(error).splitlines()[0]}",
                hint="A newer ONNX Runtime, or --opset with a lower opset, may help; `convkit doctor` shows versions.",
            ) from error

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in self._session.get_outputs()]
        try:
            values = self._session.run(names, dict(inputs))
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise ConversionError(
                f"ONNX Runtime cannot run the model on {shapes}: {str(error).splitlines()[0]}",
                hint="The graph may hold a size as a number that was asked to vary; give that dimension one size.",
            ) from error
        return dict(zip(names, values, strict=True))


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
