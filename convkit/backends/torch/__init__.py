"""PyTorch as an engine: ``model.onnx`` run by torch operators on the CPU or on CUDA.

It computes in the types of the graph. `session_in` runs a float32 graph with every tensor in another type, which
measures what a precision costs PyTorch itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.backends import Backend, Engine, Session
from convkit.hookspecs import hookimpl

if TYPE_CHECKING:
    import onnx

__all__ = ["Torch", "session_in"]


class Torch(Backend):
    """Runs ``model.onnx`` with PyTorch's operators and those that plugins add, in the types of the graph."""

    name = "torch"
    summary = "PyTorch operators (CPU and CUDA, the latter in a CUDA graph)"
    remedy = "pip install torch"

    def problem(self, device: str = "cpu") -> str:
        """Return what is missing: the package, CUDA in it, or the GPU."""
        if not importlib.util.find_spec("torch"):
            return "the package torch is not installed."
        kind, _, index = device.partition(":")
        if kind == "cpu" and not index:
            return ""
        if kind != "cuda" or not (index.isdigit() or not index):
            return f"it knows the devices cpu, cuda and cuda:N, not {device!r}."
        import torch

        if torch.version.cuda is None:
            return f"PyTorch {torch.__version__} was built without CUDA, for {device!r}; install one with it."
        count = torch.cuda.device_count()
        if int(index or 0) >= count:
            return f"PyTorch sees {count} CUDA devices, so there is no {device!r}; `nvidia-smi` shows what there is."
        return ""

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        """Turn the graph into torch calls, with the weights on the device.

        Raises:
            EnvironmentProblem: the file cannot be read, or holds an operator that nobody offers.
        """
        from convkit.backends.torch._session import TorchSession

        return TorchSession(engine.file, device)

    def describe(self) -> dict[str, str]:
        """Return the version and what it was built for, without importing it."""
        return {"version": importlib.metadata.version("torch"), "build": _build()}


def session_in(
    graph: Path | onnx.ModelProto, dtype: str | None, *, device: str = "cpu", channels_last: bool | None = None
) -> Session:
    """Return a session that runs a graph with ``dtype`` in place of float32 everywhere inside; None keeps its types.

    With ``float16`` and ``bfloat16`` it is the yardstick for typed graphs: what a precision costs PyTorch itself.
    ``channels_last`` sets the memory layout of 4-d tensors; None leaves the choice to the session.

    Raises:
        EnvironmentProblem: the file cannot be read, or contains an operator that nobody offers.
    """
    from convkit.backends.torch._session import TorchSession

    return TorchSession(graph, device, dtype, channels_last)


@hookimpl
def convkit_backends() -> Iterable[Backend]:
    """Offer PyTorch."""
    return [Torch()]


@hookimpl(trylast=True)
def convkit_torch_operators() -> Mapping[tuple[str, str], Callable[..., Any]]:
    """Offer the operators of ONNX itself."""
    from convkit.backends.torch._elementwise import ELEMENTWISE
    from convkit.backends.torch._fused import FUSED
    from convkit.backends.torch._gpu_operators import GPU
    from convkit.backends.torch._layout import LAYOUT
    from convkit.backends.torch._network import NETWORK
    from convkit.backends.torch._quantise import QUANTISE
    from convkit.backends.torch._resize import RESIZING

    return {**ELEMENTWISE, **LAYOUT, **NETWORK, **QUANTISE, **RESIZING, **FUSED, **GPU}


def _build() -> str:
    """Return what PyTorch was built for, from the file that its build wrote."""
    spec = importlib.util.find_spec("torch")
    folders = spec.submodule_search_locations if spec else None
    file = Path(next(iter(folders)), "version.py") if folders else Path()
    if not file.is_file():
        return "build unknown"
    match = re.search(r"^(cuda|hip)\b.*= *['\"]([\d.]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return f"{ {'cuda': 'CUDA', 'hip': 'ROCm'}[match.group(1)] } {match.group(2)} build" if match else "CPU build"
