"""The runners of an artifact: its graph on any backend, typed, or as one of its engines has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.artifact import MODEL, Artifact, spec_from_manifest, stored_engines
from convkit.backends import find_graph_backend
from convkit.bisection._compare import DEFAULT_SHARES, compare_runners
from convkit.bisection._errors import Bisection
from convkit.bisection._run import Runner
from convkit.bisection._typed import typed_graph
from convkit.errors import ArtifactError, SettingError, suggest
from convkit.model import BATCH, PRECISIONS, ModelSpec
from convkit.processing import collate
from convkit.progress import Progress, silent
from convkit.proof import GoldenSamples

if TYPE_CHECKING:
    import onnx

__all__ = ["DEFAULT_SAMPLES", "bisect_artifact", "find_runner", "golden_batches", "load_graph"]

DEFAULT_SAMPLES = 2
FLOAT32 = "torch:fp32"
_TYPED = [name for name, precision in PRECISIONS.items() if not precision.rest]
"""Precisions that need no samples to type a graph."""
_NARROW = (10, 16)


def bisect_artifact(
    path: Path | str,
    engines: Sequence[str] = (),
    *,
    device: str = "cpu",
    samples: int = DEFAULT_SAMPLES,
    shares: int = DEFAULT_SHARES,
    progress: Progress = silent,
) -> Bisection:
    """Return what each node of the engines of an artifact errs against float64, on its golden samples.

    ``engines`` are one or two, as `find_runner` reads them; the last is judged. Without any it is the 16-bit graph of
    the artifact: that of its first engine that has one, its own if that is typed, else one that is typed to fp16 here.
    A float32 engine alone is judged by the same graph on the backend ``torch``.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved.
        SettingError: there is no such engine, or no such backend for graphs.
        EnvironmentProblem: a backend cannot run here, or lacks an operator or type of the graph.
    """
    artifact = Artifact.open(path)
    progress("checking hashes")
    artifact.verify()
    model = load_graph(artifact.model)
    texts = list(engines) or [_default(artifact, model)]
    runners = [find_runner(artifact, model, text, device) for text in texts]
    if len(runners) == 1 and not _narrow(runners[0].model) and texts != [FLOAT32]:
        runners.insert(0, find_runner(artifact, model, FLOAT32, device))
    spec = spec_from_manifest(artifact.manifest)
    feeds = [
        feed
        for feed, _ in golden_batches(
            spec, GoldenSamples.load(artifact.path, spec, artifact.manifest["files"]), samples
        )
    ]
    return compare_runners(model, runners, feeds, shares=shares, progress=progress)


def golden_batches(
    spec: ModelSpec, golden: GoldenSamples, count: int
) -> list[tuple[dict[str, np.ndarray], list[Mapping[str, Any]]]]:
    """Return inputs of golden samples and what decoding needs of them, in the smallest batch.

    They have the sizes that the artifact is optimised for; there are ``count``, or as many as there are samples.
    """
    items = golden.samples.prepared[tuple((dim.name, dim.opt) for dim in spec.dims if dim.name != BATCH)]
    batches = [
        [items[(start + row) % len(items)] for row in range(spec.batch.min)]
        for start in range(len(items[: max(count, 1)]))
    ]
    return [(collate(spec.inputs, batch), [item.meta for item in batch]) for batch in batches]


def find_runner(artifact: Artifact, model: onnx.ModelProto, text: str, device: str = "cpu") -> Runner:
    """Return the runner that ``BACKEND`` or ``BACKEND:GRAPH`` names.

    The graph is that of the artifact (``model``) where none is given; a precision (``fp32``, ``fp16``, ``bf16``), to
    which the artifact's graph is typed; the name of an engine of the artifact, whose own graph it is; or the path of an
    ONNX file with the tensors of the artifact's graph.

    Raises:
        SettingError: there is no such backend for graphs, or no such graph.
        EnvironmentProblem: the backend cannot run here.
    """
    backend, _, graph = text.partition(":")
    found = find_graph_backend(backend, device)
    return Runner(text, _graph(artifact, model, graph), found.name, device)


def _graph(artifact: Artifact, model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    if not name:
        return model
    if name in _TYPED:
        return typed_graph(artifact, model, name)
    engines = stored_engines(artifact)
    if name in engines:
        engines[name].verify(artifact)
        file = engines[name].folder / MODEL
        return load_graph(file) if file.is_file() else model
    if Path(name).is_file():
        return load_graph(Path(name))
    known = [*_TYPED, *engines]
    raise SettingError(
        f"There is no graph {name!r} to run.",
        hint=f"{suggest(name, known)} Name {', '.join(known)} or an ONNX file: --engine torch:fp16.",
    )


def load_graph(file: Path) -> onnx.ModelProto:
    """Return the model of an ONNX file.

    Raises:
        ArtifactError: it cannot be read.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load(str(file))
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ArtifactError(
            f"{file} cannot be read as an ONNX model: {str(error).splitlines()[0]}",
            hint="It is damaged, or another kind of file.",
        ) from error


def _default(artifact: Artifact, model: onnx.ModelProto) -> str:
    for name, engine in stored_engines(artifact).items():
        if (engine.folder / MODEL).is_file() and _narrow(load_graph(engine.folder / MODEL)):
            return f"torch:{name}"
    return "torch" if _narrow(model) else "torch:fp16"


def _narrow(model: onnx.ModelProto) -> bool:
    """Return whether a graph has 16-bit weights, or casts to 16 bits."""
    if any(tensor.data_type in _NARROW for tensor in model.graph.initializer):
        return True
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    return any(attribute.i in _NARROW for node in casts for attribute in node.attribute if attribute.name == "to")
