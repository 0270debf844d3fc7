"""TensorRT and TensorRT-RTX as backends: engines built by a child process, with the rungs of their proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from convkit.backends import Backend, BuildRequest, Engine, Session, own_plugins
from convkit.backends.tensorrt._child import Build
from convkit.backends.tensorrt._commands import build_command
from convkit.backends.tensorrt._flavour import Flavour
from convkit.backends.tensorrt._network import ParsedNetwork
from convkit.backends.tensorrt._options import read_settings
from convkit.cuda import cache_folder
from convkit.errors import EnvironmentProblem, SettingError
from convkit.files import sha256
from convkit.progress import Progress, silent

if TYPE_CHECKING:
    from convkit.backends.tensorrt._gpu import Gpu

__all__ = ["TensorRT"]

PLAN = "model.plan"


class TensorRT(Backend):
    """Builds engines of one flavour; `convkit.backends.tensorrt.FLAVOURS` has both."""

    builds = True
    default_device: ClassVar[str] = "cuda"

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self.name = flavour.name  # type: ignore[misc]
        self.summary = f"{flavour.title} engines: built and understood without a GPU, run on one of their targets"  # type: ignore[misc]
        self.remedy = flavour.remedy

    def problem(self, device: str = "cuda") -> str:
        """Return what is missing: the packages, cupy, or a GPU that the flavour runs on."""
        problem = self.flavour.problem()
        if problem:
            return f"{problem} {self.flavour.remedy}"
        try:
            self._gpu(device)
        except EnvironmentProblem as error:
            return f"{error.message} {error.hint}"
        return ""

    def targets(self) -> tuple[str, ...]:
        """Return the compute capabilities that the flavour builds for without a GPU, or else that of the GPU here."""
        from convkit.backends.tensorrt._gpu import local_target

        return self.flavour.targets or tuple(filter(None, [local_target()]))

    def check_build(self, targets: Sequence[str], options: Mapping[str, Any]) -> None:
        """Check settings, targets, the packages, and of a flavour that builds only for a GPU here that there is one.

        Raises:
            SettingError: a target is no compute capability, or the flavour has no such setting.
            ConversionError: the flavour makes no engines for a target.
            EnvironmentProblem: the flavour is not installed, or builds only for a GPU that is there.
        """
        from convkit.backends.tensorrt._targets import find_targets

        read_settings(options, self.flavour)
        find_targets(self.flavour, targets)
        self.flavour.require()

    def build(self, graph: Path, folder: Path, request: BuildRequest, progress: Progress = silent) -> Engine:
        """Parse, replay and build in a child process; the plan is ``folder/model.plan``.

        Raises:
            SettingError: the settings do not go with the graph.
            SettingError, ConversionError, EnvironmentProblem: see `check_build`.
            PluginError: a plugin for TensorRT fails.
        """
        import onnx

        from convkit.backends.tensorrt._check import climb
        from convkit.backends.tensorrt._targets import find_targets

        settings = read_settings(request.options, self.flavour)
        targets, gpu = find_targets(self.flavour, request.targets)
        self.flavour.require()
        model = onnx.load(str(graph))
        plugins = own_plugins(self.name, {node.op_type for node in model.graph.node})
        if settings.version_compatible and plugins:
            raise SettingError(
                f"An engine with the plugin {plugins[0].plugin} runs on the version that built it only.",
                hint="Leave version-compatible out, or choose a way without a plugin, such as --set dcn=gather.",
            )
        times = None
        if gpu is not None and settings.timing_cache:
            # TensorRT's key of a plugin's times contains neither its code nor its settings: one file a graph then.
            key = sha256(f"{self.flavour.version} {gpu.name} {gpu.driver} {sha256(graph) if plugins else ''}")
            times = cache_folder() / self.name / f"{key}.times"
        build = Build(targets, request.ranges, settings=settings, timing_cache=times)
        ladder, outcome = climb(
            self.flavour, graph, model, build, request.feeds, plugins=plugins, typed=True, expected=request.expected,
            expected_by=request.expected_by, progress=progress,
        )  # fmt: skip
        file = folder / PLAN
        if outcome.plan is not None:
            file.write_bytes(outcome.plan)
        details = {
            "version": outcome.version,
            "settings": settings.to_json(),
            "command": build_command(self.flavour, graph, folder, build, plugins),
            "plugins": [plugin.plugin for plugin in plugins if plugin.to_run],
            "layers": _layers(outcome.network),
        }
        return Engine(self.name, file, targets, details, ladder)

    def open(self, engine: Engine, *, device: str = "cuda") -> Session:
        """Load an engine on a GPU.

        Raises:
            IntegrityError: the file is no plan, or a damaged one; that is found before CUDA is called.
            EnvironmentProblem: it is a plan of another flavour, version or GPU, the flavour does not run on this
                GPU, or the library refuses the plan.
            ConversionError: an input or output of the engine is of a kind that cannot be served.
        """
        from convkit.backends.tensorrt._plan import read_plan
        from convkit.backends.tensorrt._runtime import RuntimeEngine
        from convkit.backends.tensorrt._session import TensorRTSession

        self.flavour.require()
        plan = read_plan(engine.file, self.flavour, self.flavour.version)
        gpu = self._gpu(device)
        elsewhere = engine.details.get("settings", {}).get("hardware_compatibility") == "ampere-plus"
        if engine.targets and gpu.target not in engine.targets and not elsewhere:
            raise EnvironmentProblem(
                f"{engine.file} is for {', '.join(engine.targets)}; {gpu.name} is {gpu.target}.",
                hint=f"Build it for this GPU: convkit build ARTIFACT --to {self.name} --target {gpu.target}.",
            )
        key = sha256(f"{sha256(plan)} {self.flavour.version} {gpu.name} {gpu.driver}")
        cache = cache_folder() / self.name / f"{key}.cache"
        with gpu.active():
            runtime = RuntimeEngine(self.flavour, plan, cache, self._to_run(engine))
            return TensorRTSession(runtime, gpu, device)

    def _to_run(self, engine: Engine) -> list[str]:
        """Return the functions that register the plugins whose code a plan does not contain.

        The engine names plugins only: what is called comes from the plugins of convkit that are installed.
        """
        known = {plugin.plugin: plugin.register for plugin in own_plugins(self.name)}
        needed = engine.details.get("plugins", [])
        for name in needed:
            if name not in known:
                raise EnvironmentProblem(
                    f"{engine.file} needs the TensorRT plugin {name!r}, which no loaded plugin of convkit brings.",
                    hint="`convkit plugins` lists the loaded ones; is one left out by --no-plugin?",
                )
        return [known[name] for name in needed]

    def machine(self, device: str = "cuda") -> Mapping[str, str]:
        """Return GPU, compute capability, CUDA driver and the version of the flavour."""
        gpu = self._gpu(device)
        return {
            "gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver,
            "version": self.flavour.version,
        }  # fmt: skip

    def _gpu(self, device: str) -> Gpu:
        from convkit.backends.tensorrt._gpu import Gpu

        gpu = Gpu(device)
        known = self.flavour.targets
        if known and gpu.target not in known:
            listed = ", ".join(f"{target[2:-1]}.{target[-1]}" for target in known)
            raise EnvironmentProblem(
                f"{gpu.name} has compute capability {gpu.compute_capability}, on which {self.flavour.title} does not"
                " run.",
                hint=f"It runs on {listed}.",
            )
        return gpu

    def describe(self) -> dict[str, str]:
        """Return the versions of the installed packages."""
        return self.flavour.versions()


def _layers(network: ParsedNetwork | None) -> list[dict[str, Any]]:
    """Return every layer of the parsed network with its type, the ONNX node it was made of, and its output types."""
    if network is None:
        return []
    return [
        {
            "name": layer.name,
            "type": layer.type,
            "node": layer.node,
            "outputs": [network.tensors[index].dtype for index in layer.outputs],
        }
        for layer in network.layers
    ]
