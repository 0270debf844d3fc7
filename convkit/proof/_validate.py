"""Prove an artifact again, anywhere: without the checkpoint and without the model's source."""

from __future__ import annotations

from pathlib import Path

from convkit.artifact import Artifact, spec_from_manifest, stored_engines
from convkit.backends import Session, open_artifact, open_session
from convkit.processing import find_decode
from convkit.progress import Progress, silent
from convkit.proof._cases import shape_cases
from convkit.proof._golden import GoldenSamples
from convkit.proof._prove import prove
from convkit.proof._verdict import Verdict, read_baselines

__all__ = ["validate"]

COMPARED_WITH = "onnxruntime"
"""The backend that every other one is compared with, besides the stored float64 results."""


def validate(
    path: Path | str,
    *,
    backend: str = "onnxruntime",
    device: str | None = None,
    save_results: Path | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Check the hashes of an artifact and run its proof again on this machine.

    The engine is compared with the stored float64 results in every shape, under the limits that were measured when the
    artifact, or its 16-bit engine, was made; preprocess and decode are replayed on what is stored. Another engine than
    ONNX Runtime is also compared with ONNX Runtime, by polygraphy. A backend that builds engines runs the artifact's,
    proved or not; `convkit.evaluation.prove_engine` also writes what came of it. ``save_results`` keeps the outputs of
    all engines as polygraphy's JSON.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved; it lacks such an engine.
        EnvironmentProblem: the backend cannot run here.
    """
    artifact = Artifact.open(path)
    progress("checking hashes")
    artifact.verify()
    for engine in stored_engines(artifact).values():
        engine.verify(artifact)
    recorded = Verdict.from_json(artifact.verdict)
    baselines = _baselines(artifact, backend, recorded)
    spec = spec_from_manifest(artifact.manifest)
    golden = GoldenSamples.load(artifact.path, spec)
    decode, cases = find_decode(spec.decode), shape_cases(spec.dims)
    session = open_artifact(artifact, backend, device=device, unproved=True, verify=False)
    try:
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
            progress=progress,
        )
        if save_results or backend != COMPARED_WITH:
            from convkit.proof._engines import compare_engines

            progress("comparing engines")
            feeds = {str(case): golden.samples.feed(case) for case in cases}
            other = None if backend == COMPARED_WITH else open_session(COMPARED_WITH, artifact.model)
            try:
                engines = {COMPARED_WITH: other.run, backend: session.run} if other else {backend: session.run}
                verdict.checks += compare_engines(spec, engines, feeds, baselines, save_results)
            finally:
                _close(other)
    finally:
        _close(session)
    progress("replaying preprocess and decode")
    verdict.checks += golden.replay(decode)
    return verdict


def _baselines(artifact: Artifact, backend: str, recorded: Verdict) -> dict[str, dict[str, float]]:
    """Return PyTorch's own errors in the precision of what the backend runs: that of its engine, else float32."""
    engine = stored_engines(artifact).get(backend)
    measured = engine.ladder.get("typed", {}).get("baselines") if engine else None
    return read_baselines(measured) if measured else recorded.baselines


def _close(session: Session | None) -> None:
    if session is not None:
        session.close()
