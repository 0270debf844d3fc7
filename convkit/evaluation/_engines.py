"""What an evaluation runs: an artifact on a backend, or its checkpoint in PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.artifact import weights_difference
from convkit.backends import Session
from convkit.errors import SettingError, blamed_on
from convkit.evaluation._report import PYTORCH
from convkit.results import Result

if TYPE_CHECKING:
    import numpy as np

    from convkit.model import ModelSpec
    from convkit.runtime import Predictor

__all__ = ["Engine", "artifact_engine", "artifact_facts", "engines_of", "plain_engine", "torch_engine"]


@dataclass(frozen=True)
class Engine:
    """Makes results of raw inputs in two steps, of which any thread may do the first.

    ``prepare`` makes one raw input ready, ``run`` returns the results of some of these. ``classes`` are the names of
    the class numbers in results; ``facts`` are all on which results depend.
    """

    prepare: Callable[[Any], Any]
    run: Callable[[Sequence[Any]], Sequence[Result]]
    classes: Sequence[str]
    facts: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """A text that stands for the facts."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()


def plain_engine(name: str, function: Callable[[Path], Result], classes: Sequence[str]) -> Engine:
    """Return an engine of anything that makes a result of a file."""
    return Engine(lambda file: file, lambda files: [function(file) for file in files], classes, {"name": name})


def engines_of(predictors: Mapping[str, Predictor], weights: Path | None) -> dict[str, Engine]:
    """Return the engines of artifacts by name, and with ``weights`` that of the first one's checkpoint.

    Raises:
        SettingError: the first artifact was made from other weights.
    """
    engines = {name: artifact_engine(each) for name, each in predictors.items()}
    if weights is not None:
        engines[PYTORCH] = torch_engine(weights, next(iter(predictors.values())))
    return engines


def artifact_engine(predictor: Predictor) -> Engine:
    """Return an engine of what `load` returned: its preprocess runs beside it, unless the GPU does that."""
    from convkit.runtime import DevicePredictor

    facts, classes = artifact_facts(predictor), predictor.spec.classes
    if isinstance(predictor, DevicePredictor) and predictor.pipeline:
        return Engine(lambda raw: raw, lambda raws: list(predictor.stream(raws, batch=len(raws))), classes, facts)
    return Engine(predictor.prepare, predictor.run, classes, facts)


def artifact_facts(predictor: Predictor) -> dict[str, Any]:
    """Return what stands for an artifact, its backend and device, and their versions."""
    from convkit import __version__
    from convkit.backends import backend_named
    from convkit.runtime import AugmentedPredictor

    device, artifact = predictor.session.device, predictor.artifact
    engine = artifact.engine(predictor.backend) if backend_named(predictor.backend).builds else None
    return {
        "artifact": artifact.manifest["seal"],
        "backend": predictor.backend,
        "machine": dict(backend_named(predictor.backend).machine(device)),
        "plan": engine.description["files"][engine.plan.name]["sha256"] if engine else "",
        "convkit": __version__,
        "augment": predictor.settings if isinstance(predictor, AugmentedPredictor) else {},
    }


def torch_engine(weights: Path, predictor: Predictor) -> Engine:
    """Return what runs the checkpoint of an artifact in PyTorch, with the artifact's preprocess and decode.

    Raises:
        SettingError: the artifact was made from another file or folder.
    """
    import torch

    from convkit import __version__
    from convkit.runtime import AugmentedPredictor, predictor_of

    manifest = predictor.artifact.manifest
    try:
        difference = weights_difference(weights, manifest["weights"])
    except OSError as error:
        raise SettingError(f"{weights} cannot be read: {error.strerror or error}.", hint="Check --weights.") from error
    if difference:
        made_from = manifest["weights"]["file"]
        raise SettingError(
            f"{weights} is not the checkpoint this artifact was made from ({made_from}): {difference}.",
            hint="Give that one, or convert this one.",
        )
    augment = predictor.settings if isinstance(predictor, AugmentedPredictor) else None
    module = predictor_of(predictor.artifact, _TorchSession(weights, manifest, predictor.spec), augment)
    facts = {"artifact": manifest["seal"], "torch": str(torch.__version__), "convkit": __version__}
    return Engine(module.prepare, module.run, predictor.spec.classes, {**facts, "augment": augment or {}})


class _TorchSession(Session):
    """The checkpoint in PyTorch on the CPU, in float32, one input at a time."""

    def __init__(self, weights: Path, manifest: Mapping[str, Any], spec: ModelSpec) -> None:
        from convkit.model import Request
        from convkit.plugins import manager
        from convkit.proof import TorchCompute

        graph, name = manifest["graph"], manifest["adapter"]["name"]
        request = Request(weights, graph["form"], spec.dims, tuple(spec.classes), graph["options"])
        plugin = manager().owner(name).name
        with blamed_on(f"load() of adapter {name!r}", plugin):
            source = manager().adapter(name).load(request)
        self._compute = TorchCompute(source, source.module, "float32", remember=False, plugin=plugin)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return every output of a batch."""
        return self._compute(inputs)
