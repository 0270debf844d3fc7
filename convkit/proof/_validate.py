"""Prove an artifact again, anywhere: without the checkpoint and without the model's source."""

from __future__ import annotations

from pathlib import Path

from convkit.artifact import Artifact, spec_from_manifest
from convkit.backends import open_session
from convkit.processing import find_decode
from convkit.progress import Progress, silent
from convkit.proof._cases import shape_cases
from convkit.proof._ends import check_ends
from convkit.proof._evidence import load_evidence
from convkit.proof._prove import prove
from convkit.proof._verdict import Verdict

__all__ = ["validate"]


def validate(
    path: Path | str,
    *,
    backend: str = "onnxruntime",
    device: str = "cpu",
    progress: Progress = silent,
) -> Verdict:
    """Check the hashes of an artifact and run its proof again on this machine.

    The engine is compared with the stored float64 results in every shape, under the limits that
    were measured when the artifact was made; preprocess and decode are replayed on what is stored.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved.
        EnvironmentProblem: the backend cannot run here.
    """
    artifact = Artifact.open(path)
    progress("checking hashes")
    artifact.verify()
    manifest, recorded = artifact.manifest, Verdict.from_json(artifact.verdict)
    spec = spec_from_manifest(manifest)
    samples, reference = load_evidence(artifact.path, spec.inputs[0])
    decode = find_decode(manifest["adapter"]["name"], spec.decode)
    session = open_session(backend, artifact.model, device=device)
    try:
        verdict = prove(
            spec,
            reference=reference,
            engine=session.run,
            samples=samples,
            cases=shape_cases(spec.dims),
            yardsticks=recorded.yardsticks,
            decode=decode,
            verdict=Verdict(
                backend,
                session.device,
                reference=f"stored {recorded.reference} results",
                inputs=recorded.inputs,
                yardsticks=recorded.yardsticks,
            ),
            progress=progress,
        )
    finally:
        session.close()
    progress("replaying preprocess and decode")
    verdict.checks.extend(check_ends(artifact.path, manifest["adapter"]["name"], spec, decode))
    return verdict
