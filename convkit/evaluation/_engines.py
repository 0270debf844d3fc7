"""What an evaluation runs: an artifact on a backend, or its checkpoint in PyTorch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.artifact import Artifact
from convkit.errors import SettingError
from convkit.files import sha256
from convkit.results import Result

if TYPE_CHECKING:
    from convkit.runtime import Predictor

__all__ = ["Engine", "artifact_engine", "artifact_key", "plain_engine", "torch_engine"]


@dataclass(frozen=True)
class Engine:
    """Makes results of raw inputs in two steps, of which any thread may do the first.

    ``prepare`` makes one raw input ready, ``run`` returns the results of some of these. ``classes`` are the names of
    the class numbers in results; ``key`` stands for all on which results depend.
    """

    prepare: Callable[[Any], Any]
    run: Callable[[Sequence[Any]], Sequence[Result]]
    classes: Sequence[str]
    key: str


def plain_engine(name: str, function: Callable[[Path], Result], classes: Sequence[str]) -> Engine:
    """Return an engine of anything that makes a result of a file."""
    return Engine(lambda file: file, lambda files: [function(file) for file in files], classes, name)


def artifact_engine(predictor: Predictor) -> Engine:
    """Return an engine of what `load` returned: its preprocess runs beside it, unless the GPU does that."""
    from convkit.runtime import DevicePredictor

    key, classes = artifact_key(predictor), predictor.spec.classes
    if isinstance(predictor, DevicePredictor) and predictor.pipeline:
        return Engine(lambda raw: raw, lambda raws: list(predictor.stream(raws, batch=len(raws))), classes, key)
    return Engine(predictor.prepare, predictor.run, classes, key)


def artifact_key(predictor: Predictor) -> str:
    """Return a text that stands for an artifact, its backend and device, and their versions."""
    from convkit import __version__
    from convkit.backends import backend_named
    from convkit.runtime import AugmentedPredictor

    device, artifact = predictor.session.device, predictor.artifact
    engine = artifact.engine(predictor.backend) if backend_named(predictor.backend).builds else None
    return _key(
        {
            "artifact": artifact.manifest["seal"],
            "backend": predictor.backend,
            "machine": dict(backend_named(predictor.backend).machine(device)),
            "plan": engine.description["files"][engine.plan.name]["sha256"] if engine else "",
            "convkit": __version__,
            "augment": predictor.settings if isinstance(predictor, AugmentedPredictor) else {},
        }
    )


def torch_engine(weights: Path, predictor: Predictor) -> Engine:
    """Return what runs the checkpoint of an artifact in PyTorch, with the artifact's preprocess and decode.

    Raises:
        SettingError: the artifact was made from another file.
    """
    import torch

    from convkit import __version__
    from convkit.model import Request
    from convkit.plugins import manager
    from convkit.processing import collate, decode_batch, find_decode
    from convkit.proof import TorchCompute

    artifact: Artifact = predictor.artifact
    manifest, spec = artifact.manifest, predictor.spec
    if not weights.is_file() or sha256(weights) != manifest["weights"].get("sha256"):
        raise SettingError(
            f"{weights} is not the checkpoint this artifact was made from ({manifest['weights']['file']}).",
            hint="Give that file, or convert this one.",
        )
    graph = manifest["graph"]
    source = (
        manager()
        .adapter(manifest["adapter"]["name"])
        .load(Request(weights, graph["form"], spec.dims, tuple(spec.classes), graph["options"]))
    )
    compute, decode = TorchCompute(source, source.module, "float32", remember=False), find_decode(spec.decode)
    assert decode is not None

    def run(items: Sequence[Any]) -> list[Result]:
        return [decode_batch(decode, compute(collate(spec.inputs, [item])), [item.meta])[0] for item in items]

    key = _key({"artifact": manifest["seal"], "torch": str(torch.__version__), "convkit": __version__})
    return Engine(predictor.prepare, run, spec.classes, key)


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
