"""Running parts of a graph by a backend: small models, opened, run and closed again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convkit.backends import Engine, find_graph_backend, open_engine
from convkit.bisection._double import in_float64
from convkit.errors import ConversionError, ConvkitError, EnvironmentProblem

if TYPE_CHECKING:
    import onnx

__all__ = ["Parts", "Runner", "fitted"]

Values = Mapping[str, np.ndarray]
_BFLOAT16 = 16
_WIDE = {1: np.float32, 10: np.float16, 11: np.float64}


@dataclass(frozen=True)
class Runner:
    """A graph and the backend that runs it on a device; ``name`` is what tables call it."""

    name: str
    model: onnx.ModelProto
    backend: str = "torch"
    device: str = "cpu"


class Parts(AbstractContextManager["Parts"]):
    """Runs small models by a backend; each is a file for a moment, in a folder of its own.

    Raises:
        SettingError, EnvironmentProblem: there is no such backend, it runs no ONNX graphs, or not on the device.
    """

    def __init__(self, backend: str, device: str = "cpu") -> None:
        self.backend, self.device = find_graph_backend(backend, device), device
        self._folder = tempfile.TemporaryDirectory(prefix="convkit-bisect-")
        self._path = Path(self._folder.name) / "part.onnx"
        self.float32_nodes: list[str] = []

    def __exit__(self, *exception: object) -> None:
        self._folder.cleanup()

    def run(self, model: onnx.ModelProto, *feeds: Values) -> list[dict[str, np.ndarray]]:
        """Return the outputs of a model for each feed; feeds become the types of its inputs.

        Raises:
            ConversionError, EnvironmentProblem: the backend cannot run it.
        """
        self._path.write_bytes(model.SerializeToString())
        session = open_engine(self.backend, Engine(self.backend.name, self._path), device=self.device)
        types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        try:
            with np.errstate(all="ignore"):
                return [
                    dict(session.run({name: fitted(value, types[name]) for name, value in feed.items()}))
                    for feed in feeds
                ]
        finally:
            session.close()

    def run_exactly(self, model: onnx.ModelProto, feed: Values) -> dict[str, np.ndarray]:
        """Return the outputs of a model computed in float64; in float32 where nothing computes it in float64.

        ``float32_nodes`` then has the names of its nodes.
        """
        try:
            return self.run(in_float64(model), feed)[0]
        except ConvkitError:
            found = self._run_narrow(model, feed)
        self.float32_nodes += [node.name or node.op_type for node in model.graph.node]
        return {name: _widened(value) for name, value in found.items()}

    def _run_narrow(self, model: onnx.ModelProto, feed: Values) -> dict[str, np.ndarray]:
        problems = []
        for name in dict.fromkeys((self.backend.name, "onnxruntime")):
            try:
                with Parts(name) as other:
                    return other.run(model, feed)[0]
            except (ConversionError, EnvironmentProblem) as error:
                problems.append(error.message)
        node = model.graph.node[-1]
        raise ConversionError(
            f"Nothing here can run {node.op_type} {node.name!r} by itself: {'; '.join(problems)}",
            hint="Add its operator to the backend torch with the hook convkit_torch_operators (docs/hooks.md).",
        )


def fitted(value: np.ndarray, number: int) -> np.ndarray:
    """Return a value in the type of an input, rounded; bfloat16 as float32 numbers that it has."""
    if value.dtype.kind != "f":
        return value
    if number == _BFLOAT16:
        import ml_dtypes

        return value.astype(ml_dtypes.bfloat16).astype(np.float32)
    return value.astype(_WIDE[number], copy=False) if number in _WIDE else value


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if value.dtype.kind == "f" else value
