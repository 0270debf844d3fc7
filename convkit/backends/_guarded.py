"""Sessions whose mistakes are told by the plugin they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from convkit.backends._backend import Backend, DeviceSession, Engine, Session, find_graph_backend
from convkit.errors import AdapterError, blamed_on, named
from convkit.plugins import manager

if TYPE_CHECKING:
    import numpy as np

__all__ = ["open_engine", "open_session"]


def open_engine(backend: Backend, engine: Engine, *, device: str = "cpu") -> Session:
    """Return a session of an engine: what the backend's code raises, or returns amiss, names the backend's plugin.

    Raises:
        AdapterError: `Backend.open` raised something that is meant for no reader, or returned no session.
        ConvkitError: what the backend itself refuses.
    """
    plugin = manager().origin(backend)
    what = f"open() of backend {backend.name!r}"
    with blamed_on(what, plugin):
        session = backend.open(engine, device=device)
    if not isinstance(session, Session):
        raise AdapterError(
            f"{named(what, plugin)} returned {type(session).__name__}, and no convkit.Session.",
            hint="Return an object of a subclass of convkit.Session.",
        )
    return _Guarded(session, backend.name, plugin)


def open_session(name: str, graph: Path, *, device: str = "cpu") -> Session:
    """Return a session of an ONNX file by the backend of that name.

    Raises:
        SettingError: there is no such backend, or it runs engines that it builds.
        EnvironmentProblem: it cannot run here.
    """
    return open_engine(find_graph_backend(name, device), Engine(name, graph), device=device)


class _Guarded(Session):
    """A session of another, with its mistakes told."""

    def __init__(self, session: Session, backend: str, plugin: str) -> None:
        self._session, self._backend, self._plugin = session, backend, plugin
        self.device = session.device

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name.

        Raises:
            AdapterError: the session raised something that is meant for no reader, or returned no arrays by name.
        """
        import numpy as np

        with self._blamed("run"):
            outputs = self._session.run(inputs)
        if not isinstance(outputs, Mapping):
            self._refuse(f"returned {type(outputs).__name__}, and no dict of outputs by name")
        for name, value in outputs.items():
            if not isinstance(value, np.ndarray):
                self._refuse(f"returned {type(value).__name__} for output {name!r}, and no numpy.ndarray")
        return dict(outputs)

    def on_device(self, stream: int) -> DeviceSession | None:
        """Return the side of the session that stays on the GPU."""
        with self._blamed("on_device"):
            return self._session.on_device(stream)

    def close(self) -> None:
        """Free what the session holds."""
        with self._blamed("close"):
            self._session.close()

    def _blamed(self, method: str) -> AbstractContextManager[None]:
        return blamed_on(f"{method}() of backend {self._backend!r}", self._plugin)

    def _refuse(self, fact: str) -> NoReturn:
        raise AdapterError(
            f"{named(f'run() of backend {self._backend!r}', self._plugin)} {fact}.",
            hint="Return a dict of numpy arrays, one for each output of the graph.",
        )
