"""Inference engines: what a backend is, and how to get one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from convkit.errors import EnvironmentProblem, suggest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Backend", "Session", "find_backend", "open_session"]


class Session(ABC):
    """A loaded model that runs."""

    device: str = "cpu"

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name; batch on axis 0."""

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
