"""Inference engines: what a backend is, and how to get one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from convkit.backends._ladder import Ladder
from convkit.errors import EnvironmentProblem, SettingError, suggest
from convkit.plugins import manager
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Backend",
    "BuildRequest",
    "DeviceSession",
    "Engine",
    "Session",
    "backend_named",
    "find_backend",
    "find_builder",
    "find_graph_backend",
]


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
    edges: Mapping[str, str] = MappingProxyType({})
    """Types of inputs and outputs by name, where an engine has others than its artifact; convkit sets it."""

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output by name; batch on axis 0."""

    def visit(self, inputs: Mapping[str, np.ndarray], take: Callable[[str, np.ndarray], object]) -> None:
        """Call ``take`` with name and value of every output.

        A session that can does so as soon as an output is computed, and keeps none: that of a graph with all its
        layers as outputs needs no more memory than the graph. The default calls it for all that `run` returns.
        """
        outputs = self.run(inputs)
        for name in list(outputs):
            take(name, outputs.pop(name))

    def on_device(self, stream: int) -> DeviceSession | None:
        """Return the side of the session that stays on the GPU, bound to a CUDA stream (its address).

        None, which the default returns, stands for an engine without one: `run` then takes its place.
        """
        del stream
        return None

    def close(self) -> None:
        """Free what the session holds. The default frees nothing."""
        return


@dataclass(frozen=True)
class Engine:
    """What a backend runs: a file, which is the ONNX graph itself for backends that build nothing.

    ``targets`` are what it was built for, ``details`` a JSON object with versions, settings and layers of the build,
    ``ladder`` what was proved of it while it was built.
    """

    backend: str
    file: Path
    targets: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    ladder: Ladder = field(default_factory=lambda: Ladder(()))


@dataclass(frozen=True)
class BuildRequest:
    """What an engine is built for.

    ``targets`` name kinds of hardware, as the backend knows them; empty means its default. ``ranges`` are the lowest,
    best and highest shape of each input that varies; ``feeds`` are inputs on which the backend may compare what it
    understood with the graph, and ``expected`` the outputs of the graph on them as ``expected_by`` computed them, both
    empty where nobody did. ``options`` are the settings of plugins, the backend's own among them.
    """

    targets: tuple[str, ...] = ()
    ranges: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    feeds: Sequence[Mapping[str, np.ndarray]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    expected: Sequence[Mapping[str, np.ndarray]] = ()
    expected_by: str = ""


class Backend(ABC):
    """Something that runs models: it builds an `Engine` of an ONNX graph, and opens engines as sessions.

    ``name`` is what ``--backend`` takes.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    remedy: str = ""
    """What to do where `problem` finds one; `convkit doctor` shows it."""
    builds: ClassVar[bool] = False
    """Whether it makes engine files of its own, so that ``--to`` takes its name."""
    default_device: ClassVar[str] = "cpu"
    """Where it runs unless it is told otherwise."""

    @abstractmethod
    def problem(self, device: str = "cpu") -> str:
        """Return why this backend cannot run on ``device`` here, or an empty string if it can."""

    def unfit(self, precision: str, device: str) -> str:
        """Return why this backend is no judge of a graph of that precision (``fp16``) on ``device``.

        An artifact of that precision is then not opened on it. The default has no reason, an empty string.
        """
        del precision, device
        return ""

    def targets(self) -> tuple[str, ...]:
        """Return what engines can be built for here; empty, the default, for backends that run ONNX graphs."""
        return ()

    def check_build(self, targets: Sequence[str], options: Mapping[str, Any]) -> None:
        """Check what can be said before there is a graph: whether engines for these targets can be built here.

        ``options`` are those of `BuildRequest`. The default, for backends that run ONNX graphs, knows no targets.

        Raises:
            SettingError, ConversionError: the backend builds for no such target, or has no such setting.
            EnvironmentProblem: it cannot build here.
        """
        del options
        if targets:
            raise SettingError(
                f"Backend {self.name!r} builds no engines for {', '.join(targets)}.", hint="Leave --target out."
            )

    def build(self, graph: Path, folder: Path, request: BuildRequest, progress: Progress = silent) -> Engine:
        """Build an engine of an ONNX file below ``folder``; the default has nothing to build and runs the graph.

        A graph that the backend does not accept, or understands differently, is an `Engine` whose ladder says so.

        Raises:
            SettingError, ConversionError, EnvironmentProblem: see `check_build`.
        """
        del folder, progress
        self.check_build(request.targets, request.options)
        return Engine(self.name, graph)

    @abstractmethod
    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        """Load an engine on a device (``cpu``, ``cuda:0`` …)."""

    def machine(self, device: str) -> Mapping[str, str]:
        """Return what the proof of an engine on ``device`` depends on besides the engine.

        Those that build engines return ``compute_capability`` and ``version`` at least: an engine that was proved with
        another value of these counts as unproved. The default returns the version of `describe`, and of a GPU the name,
        the compute capability and the driver.

        Raises:
            EnvironmentProblem: there is no such GPU, or cupy is missing.
        """
        facts = {key: value for key, value in self.describe().items() if key == "version"}
        if device.startswith("cuda"):
            from convkit.backends._machine import gpu_facts

            facts |= gpu_facts(device)
        return facts

    def describe(self) -> dict[str, str]:
        """Return what ``convkit doctor`` shows: versions, execution providers, devices."""
        return {}


def backend_named(name: str) -> Backend:
    """Return the backend of that name, whether or not it can run here.

    Raises:
        SettingError: there is no such backend.
    """
    table = {
        backend.name: backend
        for found in manager().gather("convkit_backends", of=Backend).values()
        for backend in found
    }
    if name not in table:
        raise SettingError(
            f"There is no backend {name!r}.", hint=f"{suggest(name, table)} Known: {', '.join(table) or 'none'}."
        )
    backend: Backend = table[name]
    return backend


def find_backend(name: str, device: str = "cpu") -> Backend:
    """Return the backend of that name, which can run on ``device``.

    Raises:
        SettingError: there is no such backend.
        EnvironmentProblem: it cannot run here.
    """
    backend = backend_named(name)
    problem = backend.problem(device)
    if problem:
        raise EnvironmentProblem(f"Backend {name!r} cannot run here: {problem}", hint="`convkit doctor` tells more.")
    return backend


def find_graph_backend(name: str, device: str = "cpu") -> Backend:
    """Return the backend of that name, which runs ONNX graphs on ``device``.

    Raises:
        SettingError: there is no such backend, or it runs engines that it builds.
        EnvironmentProblem: it cannot run here.
    """
    if backend_named(name).builds:
        raise SettingError(
            f"Backend {name!r} runs the engines that it builds, not ONNX graphs.",
            hint=f"`convkit convert … --to {name}` or `convkit build ARTIFACT --to {name}` makes one.",
        )
    return find_backend(name, device)


def find_builder(name: str) -> Backend:
    """Return the backend of that name, which builds engines.

    Raises:
        SettingError: there is no such backend, or it runs ONNX graphs and builds nothing.
    """
    found = manager().gather("convkit_backends", of=Backend).values()
    table: dict[str, Backend] = {backend.name: backend for group in found for backend in group if backend.builds}
    if name not in table:
        raise SettingError(
            f"This convkit builds no {name!r} engines.",
            hint=f"{suggest(name, table)} Use --to {' or --to '.join(table)}; `convkit convert` makes an ONNX file.",
        )
    return table[name]
