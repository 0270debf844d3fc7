"""Inference engines: what a backend is, and how to get one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from convkit.errors import EnvironmentProblem, suggest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Backend", "DeviceSession", "Session", "find_backend", "open_session"]


class DeviceSession(ABC):
    """The side of a session that stays on the GPU: arrays of the device in and out, all work on one stream.

    Arrays are cupy's or torch's, as the engine has them; both say where they lie by ``__cuda_array_interface__``
    or ``data_ptr``. Nothing waits for the device but `fetch`.
    """

    @abstractmethod
    def buffer(self, name: str, shape: Sequence[int]) -> Any:
        """Return an uninitialised array for an input, in the type and memory layout that the engine reads best."""

    @abstractmethod
    def fill(self, buffer: Any, values: np.ndarray) -> None:
        """Copy host values (float32) into a buffer, converted to its type."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Enqueue the engine and return its outputs, contiguous or channels-last; they hold until the next run."""

    @abstractmethod
    def fetch(self, outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Wait for outputs and return them on the host."""

    def capture(self, body: Callable[[], None]) -> Callable[[], None] | None:
        """Capture what ``body`` enqueues on the stream, and return what replays it.

        None, which the default returns, stands for an engine that cannot be captured.
        """
        del body
        return None


class Session(ABC):
    """A loaded model that runs."""

    device: str = "cpu"

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name; batch on axis 0."""

    def on_device(self, stream: int) -> DeviceSession | None:
        """Return the side of the session that stays on the GPU, bound to a CUDA stream (its address).

        None, which the default returns, stands for an engine without one: `run` then takes its place.
        """
        del stream
        return None

    def close(self) -> None:
        """Free what the session holds. The default frees nothing."""
        return


class Backend(ABC):
    """An inference engine.

    ``name`` is what ``--backend`` takes, ``files`` the artifact files it can run, best first.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ("model.onnx",)

    @abstractmethod
    def problem(self, device: str = "cpu") -> str:
        """Return why this backend cannot run on ``device`` here, or an empty string if it can."""

    @abstractmethod
    def open(self, model: Path, *, device: str = "cpu") -> Session:
        """Load the model file on a device (``cpu``, ``cuda:0`` …)."""

    def describe(self) -> dict[str, str]:
        """Return what ``convkit doctor`` shows: versions, execution providers, devices."""
        return {}


def find_backend(name: str, device: str = "cpu") -> Backend:
    """Return the backend of that name, which can run on ``device``.

    Raises:
        EnvironmentProblem: there is no such backend, or it cannot run here.
    """
    from convkit.plugins import manager

    table = {backend.name: backend for found in manager().gather("convkit_backends").values() for backend in found}
    if name not in table:
        raise EnvironmentProblem(
            f"There is no backend {name!r}.", hint=f"{suggest(name, table)} Known: {', '.join(table) or 'none'}."
        )
    backend: Backend = table[name]
    problem = backend.problem(device)
    if problem:
        raise EnvironmentProblem(f"Backend {name!r} cannot run here: {problem}", hint="`convkit doctor` tells more.")
    return backend


def open_session(name: str, model: Path, *, device: str = "cpu") -> Session:
    """Load ``model`` with the backend of that name.

    Raises:
        EnvironmentProblem: there is no such backend, or it cannot run here.
    """
    return find_backend(name, device).open(model, device=device)
