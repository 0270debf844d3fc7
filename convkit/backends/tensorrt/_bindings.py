"""TensorRT's Python bindings: load, log, parse, build. Reading back is in `_reader`.

The parser and the builder are used by child processes only (see `_worker`): they end the process on some inputs. The
runtime (see `_runtime`) is used in the caller's.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from convkit.backends.tensorrt._flavour import Flavour
from convkit.backends.tensorrt._options import BuildSettings
from convkit.backends.tensorrt._reader import network_table
from convkit.errors import ConversionError, EnvironmentProblem
from convkit.files import write_atomic

__all__ = ["Bindings", "BuildResult", "ParsedModel", "load_bindings"]

Sink = Callable[[str, str], None]
"""Takes the name of a severity and a message."""
Step = Callable[[str, int, int], bool]
"""Takes a phase, the steps done and their number; returns whether to go on."""


@dataclass(eq=False)
class Bindings:
    """A loaded flavour: its module, and the one logger that a process can have."""

    flavour: Flavour
    api: Any
    logger: Any
    sinks: list[Sink] = field(default_factory=list)

    @property
    def version(self) -> str:
        """The version of the bindings."""
        return str(self.api.__version__)


def load_bindings(flavour: Flavour, folder: Path) -> Bindings:
    """Return the bindings of a flavour, with its libraries loaded under the names that its parser looks for.

    Those names are links in ``folder``, which has to last as long as the process uses the bindings.

    Raises:
        EnvironmentProblem: bindings or libraries are not installed, do not load, or are of two versions.
    """
    flavour.require()
    versions = set(flavour.versions().values())
    if flavour.link and len(versions) > 1:
        raise EnvironmentProblem(
            f"Bindings and libraries of {flavour.title} are of different versions: {', '.join(sorted(versions))}.",
            hint=flavour.remedy,
        )
    try:
        if flavour.link:
            _link_libraries(flavour, folder)
        api = importlib.import_module(flavour.module)
    except (ImportError, OSError) as error:
        raise EnvironmentProblem(
            f"The libraries of {flavour.title} do not load: {str(error).splitlines()[0]}", hint=flavour.remedy
        ) from error
    sinks: list[Sink] = []
    return Bindings(flavour, api, _make_logger(api, sinks), sinks)


def _link_libraries(flavour: Flavour, folder: Path) -> None:
    """Load the libraries by way of a folder in which they have their unversioned name, too."""
    spec = importlib.util.find_spec(flavour.libraries)
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    for name, source in ((flavour.link, flavour.files[0]), *((name, name) for name in flavour.files)):
        (folder / name).symlink_to(home / source)
    for name in flavour.files:
        ctypes.CDLL(str(folder / name))


def _make_logger(api: Any, sinks: list[Sink]) -> Any:
    """Return a logger that hands every message to each of ``sinks``."""

    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            for sink in tuple(sinks):
                sink(severity.name, message)

    return Logger()


class ParsedModel:
    """An ONNX model in the hands of NVIDIA's parser.

    Builder, network, parser and logger are kept together: the library crashes when one outlives another.
    ``errors`` has what the parser objected to; without errors the network has layers and outputs.
    """

    def __init__(self, bindings: Bindings, model: Path) -> None:
        self.bindings = bindings
        self.model = model
        self.builder = self._builder()
        self.network, self.parser = self._fresh()
        accepted = self.parser.parse_from_file(str(model))
        self.errors = _parser_errors(self.parser)
        if not accepted:
            self.errors = self._unsupported_nodes() or self.errors or [_error("the parser gave no reason")]
        elif self.network.num_layers == 0 or self.network.num_outputs == 0:
            self.errors = [_error("the parser took the file and made no layers of it")]

    def _builder(self) -> Any:
        try:
            return self.bindings.api.Builder(self.bindings.logger)
        except Exception as error:
            raise EnvironmentProblem(
                f"{self.bindings.flavour.title} cannot make a builder here: {str(error).splitlines()[0]}",
                hint="It needs an NVIDIA GPU and a driver.",
            ) from error

    def _fresh(self) -> tuple[Any, Any]:
        api = self.bindings.api
        network = self.builder.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        return network, api.OnnxParser(network, self.bindings.logger)

    def _unsupported_nodes(self) -> list[dict[str, Any]]:
        """Return the errors of every node: parsing itself stops at the first.

        The library's own list leaves out some nodes behind the first, so operators that it has no importer for are
        added.
        """
        import onnx

        network, parser = self._fresh()
        parser.supports_model_v2(self.model.read_bytes(), str(self.model))
        errors = _parser_errors(parser)
        if errors:
            nodes = onnx.load(str(self.model), load_external_data=False).graph.node
            listed = {error["node"] for error in errors}
            errors += [
                _error("TensorRT has no such operator.", node=index, name=node.name, operator=node.op_type)
                for index, node in enumerate(nodes)
                if index not in listed and not parser.supports_operator(node.op_type)
            ]
        del parser, network
        return sorted(errors, key=lambda error: int(error["node"]))

    def read(self, weights: BinaryIO) -> dict[str, Any]:
        """Return the whole network as values fit for JSON, and append the weights of its layers to a file."""
        table = network_table(self.bindings.api, self.network, weights)
        return {"flavour": self.bindings.flavour.name, "version": self.bindings.version, **table}

    def _config(self, targets: Sequence[str], settings: BuildSettings) -> Any:
        """Return the configuration of a build, without profiles. Precision is that of the graph: no flag sets it."""
        api, flavour = self.bindings.api, self.bindings.flavour
        config = self.builder.create_builder_config()
        if settings.workspace:
            config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, settings.workspace * 2**20)
        if settings.optimization_level is not None:
            config.builder_optimization_level = settings.optimization_level
        if not flavour.targets:
            levels = api.HardwareCompatibilityLevel
            level = settings.hardware_compatibility.upper().replace("-", "_")
            config.hardware_compatibility_level = getattr(levels, level)
            if settings.version_compatible:
                config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
                # The plan then contains no program of the host, which a session would have to trust.
                config.set_flag(api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
            return config
        # Without it no stream that runs the engine can be captured in a CUDA graph.
        config.set_flag(api.BuilderFlag.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            if not config.set_compute_capability(getattr(api.ComputeCapability, target.upper()), index):
                raise ConversionError(f"{flavour.title} takes no engine for {target}.", hint=flavour.remedy)
        return config

    def build(
        self,
        targets: Sequence[str],
        ranges: Mapping[str, Sequence[Sequence[int]]],
        values: Mapping[str, Sequence[int]],
        step: Step,
        settings: BuildSettings,
        timing_cache: Path | None,
    ) -> BuildResult:
        """Build an engine for these compute capabilities; a flavour that builds for the GPU it finds ignores them.

        ``ranges`` are the lowest, best and highest shape of each input with a variable one, ``values`` the contents
        of inputs that are shapes; ``step`` stops the build by returning False. ``timing_cache`` is a file with the
        times of kernels, which is read if it is there, and written.
        """
        api = self.bindings.api
        config = self._config(targets, settings)
        inputs = [self.network.get_input(index) for index in range(self.network.num_inputs)]
        if any(-1 in tensor.shape or tensor.is_shape_tensor for tensor in inputs):
            profile = self.builder.create_optimization_profile()
            for tensor in inputs:
                if tensor.is_shape_tensor and tensor.name in values:
                    profile.set_shape_input(tensor.name, *(list(values[tensor.name]),) * 3)
                if tensor.name in ranges:
                    profile.set_shape(tensor.name, *(tuple(shape) for shape in ranges[tensor.name]))
            if not profile or config.add_optimization_profile(profile) < 0:
                return BuildResult(None, ["the range of shapes is not one"])
        problems: list[str] = []

        def note(severity: str, message: str) -> None:
            if severity in ("ERROR", "INTERNAL_ERROR"):
                problems.append(message)

        config.progress_monitor = _make_monitor(api, step)
        times = None if timing_cache is None else _read_times(config, timing_cache)
        self.bindings.sinks.append(note)
        try:
            plan = self.builder.build_serialized_network(self.network, config)
        finally:
            self.bindings.sinks.remove(note)
        if timing_cache is not None and times is not None and plan is not None:
            with suppress(OSError):
                write_atomic(timing_cache, bytes(times.serialize()))
        return BuildResult(None if plan is None else bytes(plan), problems)


@dataclass(frozen=True)
class BuildResult:
    """The bytes of an engine, or None and what the builder objected to."""

    plan: bytes | None
    problems: list[str]


def _read_times(config: Any, file: Path) -> Any:
    """Return a timing cache that a build uses, with what the file contains if that is of this version and GPU."""
    content = b""
    with suppress(OSError):
        content = file.read_bytes()
    for known in (content, b""):
        cache = config.create_timing_cache(known)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _make_monitor(api: Any, step: Step) -> Any:
    """Return a progress monitor that counts the steps of the outermost phase."""

    class Monitor(api.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            self.phases: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.phases[phase_name] = num_steps

        def step_complete(self, phase_name: str, step_number: int) -> bool:
            if phase_name not in self.phases:
                return step("", 0, 0)
            return step(phase_name, step_number + 1, self.phases[phase_name])

        def phase_finish(self, phase_name: str) -> None:
            total = self.phases.pop(phase_name, 0)
            if total:
                step(phase_name, total, total)

    return Monitor()


def _error(message: str, *, node: int = -1, name: str = "", operator: str = "", code: str = "") -> dict[str, Any]:
    return {"node": node, "name": name, "operator": operator, "code": code, "message": message}


def _parser_errors(parser: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for error in (parser.get_error(index) for index in range(parser.num_errors)):
        entry = _error(
            _reason(error.desc()),
            node=error.node(),
            name=error.node_name(),
            operator=error.node_operator(),
            code=error.code().name,
        )
        if entry not in found:
            found.append(entry)
    return found


def _reason(text: str) -> str:
    """Return an error of the parser without the conditions, source lines and CUDA messages of its own code."""
    lines = [line for line in text.strip().splitlines() if "catchCudaError" not in line]
    text = re.sub(r'^.*? && "(.*)"$', r"\1", " ".join(lines).strip())
    text = re.sub(r"^Assertion failed: .*?(?<!:): (?=[A-Z])", "", text)
    return re.sub(r"\s*In \w+ at \S+\)", ")", text).replace('" "', "")
