"""validate(): an artifact proved again, anywhere, by everything that runs, and the ladder that it climbs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convkit.artifact import (
    Artifact,
    ProofRecord,
    StoredEngine,
    record_file,
    spec_from_manifest,
    stored_engines,
    write_record,
)
from convkit.backends import (
    Ladder,
    backend_named,
    device_kind,
    open_artifact,
    proved_engine,
    validate_command,
)
from convkit.errors import ConvkitError, EnvironmentProblem
from convkit.evaluation._pipeline import check_pipeline
from convkit.progress import Progress, silent
from convkit.proof import GoldenSamples, Verdict, artifact_ladder, pipeline_rung, prove_again, rung_of
from convkit.runtime import Predictor, predictor_of

if TYPE_CHECKING:
    import onnx

__all__ = ["ArtifactProof", "prove_artifact", "prove_predictor", "validate"]


@dataclass(frozen=True)
class ArtifactProof:
    """What is proved of an artifact on a backend and a device: its ladder, and the verdict of this machine.

    Without a ``verdict`` this machine cannot run the engine: ``problem`` says why, and ``command`` completes the proof
    where it can be run. ``unrecorded`` says why the ladder could not be written into the artifact; empty where it was.
    """

    backend: str
    device: str
    ladder: Ladder
    verdict: Verdict | None
    problem: str
    command: str
    unrecorded: str = ""


def validate(
    path: Path | str,
    *,
    backend: str | None = None,
    device: str | None = None,
    save_results: Path | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Check the hashes of an artifact and run its proof again on this machine, from raw inputs to results.

    The engine is compared with the stored float64 results in every shape, under the limits that were measured when the
    artifact, or its 16-bit engine, was made; preprocess and decode are replayed on what is stored. Another engine than
    ONNX Runtime is also compared with ONNX Runtime, by polygraphy. Then the stored raw inputs go through the predictor
    that `load` makes, against the stored results. ``backend`` and ``device`` are by default those that proved the
    artifact; a backend that builds engines runs the artifact's. What came of it is written into the artifact: `load`
    takes a backend and device that passed. ``save_results`` keeps the outputs of all engines as polygraphy's JSON.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved; it lacks such an engine.
        EnvironmentProblem: the backend cannot run here.
    """
    proof = prove_artifact(path, backend=backend, device=device, save_results=save_results, progress=progress)
    if proof.verdict is None:
        raise EnvironmentProblem(
            f"Backend {proof.backend!r} cannot run here: {proof.problem}", hint=f"Where it can: {proof.command}"
        )
    return proof.verdict


def prove_artifact(
    path: Path | str,
    *,
    backend: str | None = None,
    device: str | None = None,
    save_results: Path | None = None,
    record: bool = True,
    progress: Progress = silent,
) -> ArtifactProof:
    """Prove an artifact again as `validate` does, and return the ladder too.

    Of a backend that builds engines, the rungs ``ran`` and ``pipeline`` are written to the engine's verdict; where this
    machine cannot run it they stay as they are. Of other backends the whole ladder is kept, unless it says no more than
    the artifact does already. ``record`` False writes nothing into the artifact.

    Raises:
        ArtifactError, IntegrityError: it is no artifact, or not the one that was proved; it lacks such an engine.
        SettingError: there is no such backend.
        EnvironmentProblem: one that runs ONNX cannot run here.
    """
    artifact = Artifact.open(path)
    progress("checking hashes")
    artifact.verify()
    for engine in stored_engines(artifact).values():
        engine.verify(artifact)
    backend, device = proved_engine(artifact, backend, device)
    runs = backend_named(backend)
    command = validate_command(artifact, backend, device)
    stored = artifact.engine(backend) if runs.builds else None
    if stored and (problem := runs.problem(device)):
        return ArtifactProof(backend, device, Ladder.from_json(stored.ladder), None, problem, command)
    session = open_artifact(artifact, backend, device=device, unproved=True, verify=False)
    with predictor_of(artifact, session) as predictor:
        verdict = prove_predictor(predictor, backend=backend, save_results=save_results, progress=progress)
    machine = runs.machine(device)
    if stored:
        ladder = _engine_ladder(stored, verdict, machine)
    else:
        recorded = Ladder.from_json(artifact.verdict["ladder"])
        ladder = artifact_ladder(verdict, machine, recorded["exported"], recorded["typed"])
    unrecorded = ""
    try:
        if record:
            _record(artifact, stored, backend, device, machine, ladder)
        else:
            unrecorded = "the artifact stays as it was signed."
    except ConvkitError as error:
        unrecorded = error.message
    return ArtifactProof(backend, device, ladder, verdict, "", command, unrecorded)


def prove_predictor(
    predictor: Predictor,
    *,
    backend: str,
    golden: GoldenSamples | None = None,
    save_results: Path | None = None,
    stop_early: bool = False,
    layers: bool = True,
    model: onnx.ModelProto | None = None,
    progress: Progress = silent,
) -> Verdict:
    """Run every check of `validate` on a predictor, which may be a faulty one: this is what decides.

    Its session is compared with the stored float64 results in every shape, preprocess and decode are replayed on what
    is stored, and then the stored raw inputs go through the predictor itself (the checks of kind ``pipeline``), unless
    something failed before. ``golden`` saves reading the golden samples again; ``stop_early`` runs nothing more in
    other shapes after a failure. ``layers`` compares those of the artifact's graph, or of the ``model`` that the
    predictor runs in its place.
    """
    manifest = predictor.artifact.manifest
    golden = golden or GoldenSamples.load(predictor.artifact.path, spec_from_manifest(manifest), manifest["files"])
    golden = golden.fitted(predictor.spec)
    verdict = prove_again(
        predictor.artifact,
        predictor.session,
        golden,
        backend=backend,
        save_results=save_results,
        stop_early=stop_early,
        layers=layers,
        model=model,
        progress=progress,
    )
    if verdict.passed:
        verdict.checks += check_pipeline(predictor, golden, verdict.baselines, progress)
    return verdict


def _engine_ladder(stored: StoredEngine, verdict: Verdict, machine: Mapping[str, str]) -> Ladder:
    """Return the ladder of an engine with the upper rungs of this machine's verdict."""
    facts = {"plan": stored.description["files"][stored.plan.name]["sha256"], **machine}
    ran = [check for check in verdict.checks if check.kind != "pipeline"]
    where = ", ".join(facts[key] for key in ("gpu", "version") if key in facts)
    rungs = [
        rung_of("ran", ran, f"On {where}: {verdict.headline()}, {verdict.reference}", facts),
        pipeline_rung(verdict, {**facts, "backend": verdict.backend, "device": verdict.device}),
    ]
    return Ladder.from_json(stored.ladder).replaced(rungs)


def _record(
    artifact: Artifact,
    stored: StoredEngine | None,
    backend: str,
    device: str,
    machine: Mapping[str, str],
    ladder: Ladder,
) -> None:
    """Write what was proved into the artifact, unless the conversion's own proof says the same."""
    if stored:
        stored.record(ladder.to_json())
        return
    record = ProofRecord(backend, device_kind(device), machine, ladder.to_json())
    own = artifact.manifest["environment"]["engine"]
    same = {**own, "device": device_kind(own["device"])} == {"backend": backend, "device": record.device, **machine}
    first = not record_file(artifact, record).exists()
    if not (same and first and artifact.manifest["verdict"]["passed"] and not ladder.failed):
        write_record(artifact, record)
