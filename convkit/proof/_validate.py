"""The proof of an artifact run again on an open session: without the checkpoint and without the model's source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convkit.artifact import Artifact, spec_from_manifest, stored_engines
from convkit.backends import Session, backend_named, open_session
from convkit.errors import ConvkitError
from convkit.model import ModelSpec
from convkit.processing import find_decode
from convkit.progress import Progress, silent
from convkit.proof._cases import shape_cases
from convkit.proof._computes import Compute
from convkit.proof._golden import GoldenSamples
from convkit.proof._layers import Layers
from convkit.proof._prove import prove
from convkit.proof._verdict import Verdict, read_baselines

if TYPE_CHECKING:
    import onnx

__all__ = ["prove_again"]

COMPARED_WITH = "onnxruntime"
"""The backend that every other one is compared with, besides the stored float64 results."""


def prove_again(
    artifact: Artifact,
    session: Session,
    golden: GoldenSamples,
    *,
    backend: str,
    save_results: Path | None = None,
    stop_early: bool = False,
    layers: bool = True,
    model: onnx.ModelProto | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Compare a session of an artifact with the stored float64 results in every shape.

    The limits are those that were measured when the artifact, or its 16-bit engine, was made; preprocess and decode are
    replayed on what is stored. Another ``backend`` than ONNX Runtime is also compared with ONNX Runtime, by polygraphy,
    where ONNX Runtime is within the limits.
    ``golden`` has the types of the session's inputs and outputs. ``save_results`` keeps the outputs of all engines as
    polygraphy's JSON; ``stop_early`` ends the proof after the first shape in which something failed. ``layers``
    compares the layers of the graph, too: that of the artifact, or the ``model`` that the session runs in its place.

    Raises:
        ValidationError: the session lacks an output.
        OutputError, EnvironmentProblem: the results cannot be saved, or ONNX Runtime cannot load the graph.
    """
    recorded = Verdict.from_json(artifact.verdict)
    baselines = _baselines(artifact, backend, recorded)
    spec, own = golden.samples.spec, spec_from_manifest(artifact.manifest)
    decode, cases = find_decode(spec.decode), shape_cases(spec.dims)
    verdict = prove(
        spec,
        reference=golden.reference(),
        engine=session.run,
        samples=golden.samples,
        cases=cases,
        baselines=baselines,
        decode=decode,
        verdict=Verdict(
            backend,
            session.device,
            reference=f"stored {recorded.reference} results",
            inputs=recorded.inputs,
            baselines=baselines,
        ),
        stop_early=stop_early,
        progress=progress,
    )
    if stop_early and verdict.failures:
        return verdict
    compared = backend != COMPARED_WITH and not backend_named(COMPARED_WITH).unfit(
        artifact.manifest["graph"]["precision"], "cpu"
    )
    if save_results or compared:
        from convkit.proof._engines import compare_engines

        progress("comparing engines")
        feeds = {str(case): golden.samples.feed(case) for case in cases}
        other = open_session(COMPARED_WITH, artifact.model) if compared else None
        try:
            engines = {COMPARED_WITH: _widening(other, own), backend: session.run} if other else {backend: session.run}
            checks, notes = compare_engines(spec, engines, feeds, baselines, golden.reference(), save_results)
            verdict.checks += checks
            verdict.notes += notes
        finally:
            if other is not None:
                other.close()
    if layers and not backend_named(backend).builds:
        progress("comparing layers")
        _compare_layers(artifact, golden, verdict, model)
    progress("replaying preprocess and decode")
    verdict.checks += golden.replay(decode)
    return verdict


def _widening(session: Session, spec: ModelSpec) -> Compute:
    """Return what runs a session whose inputs have the types of ``spec``, whatever those of a feed are."""
    types = {tensor.name: tensor.host_dtype for tensor in spec.inputs}
    return lambda feed: session.run({name: np.asarray(value, types[name]) for name, value in feed.items()})


def _compare_layers(artifact: Artifact, golden: GoldenSamples, verdict: Verdict, model: onnx.ModelProto | None) -> None:
    """Add the check of the layers to a verdict, or a note of why there is none."""
    import onnx

    known = Layers.load(artifact)
    if known is None:
        return
    try:
        found = known.check(model or onnx.load(str(artifact.model)), golden.samples, verdict.backend, verdict.device)
    except ConvkitError as error:
        verdict.notes.append(f"the layers were not compared: {error.message}")
        return
    if found:
        verdict.checks.append(found)


def _baselines(artifact: Artifact, backend: str, recorded: Verdict) -> dict[str, dict[str, float]]:
    """Return PyTorch's own errors in the precision of what the backend runs: that of its engine, else float32."""
    engine = stored_engines(artifact).get(backend)
    measured = engine.ladder.get("typed", {}).get("baselines") if engine else None
    return read_baselines(measured) if measured else recorded.baselines
