"""TensorRT and TensorRT-RTX as backends: engines built by a child process, with the rungs of their proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convkit.backends import Backend, BuildRequest, Engine, Session
from convkit.backends.tensorrt._flavour import Flavour
from convkit.backends.tensorrt._network import ParsedNetwork
from convkit.errors import EnvironmentProblem
from convkit.progress import Progress, silent

__all__ = ["TensorRT"]

PLAN = "model.plan"


class TensorRT(Backend):
    """Builds engines of one flavour; `convkit.backends.tensorrt.FLAVOURS` has both."""

    builds = True

    def __init__(self, flavour: Flavour) -> None:
        self.flavour = flavour
        self.name = flavour.name  # type: ignore[misc]
        self.summary = f"{flavour.title} engines: built and understood without a GPU, run on one of their targets"  # type: ignore[misc]

    def problem(self, device: str = "cpu") -> str:
        """Return why no engine can be run here."""
        return self.flavour.problem() or f"running engines of {self.flavour.title} is not part of this convkit yet."

    def targets(self) -> tuple[str, ...]:
        """Return the compute capabilities that the flavour builds for without a GPU."""
        return self.flavour.targets

    def build(self, graph: Path, folder: Path, request: BuildRequest, progress: Progress = silent) -> Engine:
        """Parse, replay and build in a child process; the plan is ``folder/model.plan``.

        Raises:
            SettingError: a target is no compute capability.
            ConversionError: the flavour makes no engines for a target.
            EnvironmentProblem: the flavour is not installed, or builds only for a GPU that is there.
        """
        import onnx

        from convkit.backends.tensorrt._check import climb
        from convkit.backends.tensorrt._targets import parse_targets

        if not self.flavour.targets:
            raise EnvironmentProblem(
                f"{self.flavour.title} builds for the GPU that it finds, which this convkit cannot use yet.",
                hint="Use --to tensorrt-rtx, or build model.onnx with trtexec.",
            )
        targets = parse_targets(self.flavour, request.targets)
        ladder, outcome = climb(
            self.flavour, graph, onnx.load(str(graph)), targets, request.ranges, request.feeds, progress=progress
        )
        file = folder / PLAN
        if outcome.plan is not None:
            file.write_bytes(outcome.plan)
        return Engine(
            self.name, file, targets, {"version": outcome.version, "layers": _layers(outcome.network)}, ladder
        )

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        """Refuse: engines are built and proved up to `built`.

        Raises:
            EnvironmentProblem: always.
        """
        raise EnvironmentProblem(
            f"Engines of {self.flavour.title} cannot be run by this convkit yet.",
            hint=f"Run {engine.file} with {self.flavour.title}'s own tools on a GPU of its targets.",
        )

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
