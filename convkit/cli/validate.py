"""``convkit validate``: prove an artifact again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import (
    ArtifactArgument,
    BackendOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    SignedByOption,
    VerboseOption,
)

if TYPE_CHECKING:
    from convkit.evaluation import ArtifactProof


def validate(
    artifact: ArtifactArgument,
    backend: BackendOption = None,
    device: DeviceOption = None,
    save_results: Annotated[
        Path | None,
        typer.Option(
            "--save-results", help="Keep the outputs of all engines as polygraphy's JSON.", metavar="FILE.json"
        ),
    ] = None,
    require_proof: Annotated[
        bool, typer.Option("--require-proof", help="Exit 5 where this machine cannot run the engine.")
    ] = False,
    signed_by: SignedByOption = None,
    self_test: Annotated[
        bool,
        typer.Option(
            "--self-test", help="Plant faults and run clean variants: how many are caught, how many alarms are false."
        ),
    ] = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check the hashes of an artifact and prove it again on this machine; exit 4 if it is not proved.

    What came of it is written into the artifact, unless that has to be as it was signed: `run` takes the backends and
    devices that passed. The engine of a backend that builds engines gets its upper rungs here; without a GPU that runs
    it they stay pending.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    if signed_by is not None or save_results is not None:
        from convkit.artifact import Artifact, verify_signature
        from convkit.cli._html import outside

        opened = Artifact.open(artifact)
        if signed_by is not None:
            verify_signature(opened, signed_by)
        if save_results is not None:
            outside(save_results, opened)
    if self_test:
        return _self_test(artifact, backend, device, json=json, verbose=verbose)
    from convkit.backends import backend_named
    from convkit.cli._console import emit_json, stderr, steps
    from convkit.errors import EnvironmentProblem, ValidationError
    from convkit.evaluation import prove_artifact

    with steps(f"validate {artifact}") as step:
        proof = prove_artifact(
            artifact,
            backend=backend,
            device=device,
            save_results=save_results,
            record=signed_by is None,
            progress=step,
        )
    if json:
        emit_json(_document(proof, engine=backend_named(proof.backend).builds))
    else:
        _print(proof, verbose=verbose)
    if proof.unrecorded:
        stderr().print(
            f"note: this proof was not recorded, so `run` takes it as unproved: {proof.unrecorded}", markup=False
        )
    if proof.verdict is None:
        return EnvironmentProblem.exit_code if require_proof else 0
    return 0 if proof.verdict.passed else ValidationError.exit_code


def _self_test(artifact: Path, backend: str | None, device: str | None, *, json: bool, verbose: bool) -> int:
    """Test the proof of an artifact and print its two rates; exit 4 unless it caught all and rejected nothing clean."""
    from convkit.cli._console import emit_json, stdout, steps
    from convkit.cli._self_test import print_self_test
    from convkit.errors import ValidationError
    from convkit.self_test import self_test

    with steps(f"self-test {artifact}") as step:
        test = self_test(artifact, backend=backend, device=device, progress=step)
    if json:
        emit_json({"self_test": test.to_json()})
    else:
        print_self_test(test, stdout(), verbose=verbose)
    return 0 if test.passed else ValidationError.exit_code


def _document(proof: ArtifactProof, *, engine: bool) -> dict[str, Any]:
    """Return the verdict with the ladder; of an engine, the ladder with the verdict, or why there is none."""
    ladder = proof.ladder.to_json()
    verdict = proof.verdict.to_json() if proof.verdict is not None else None
    if not engine:
        return {**(verdict or {}), "ladder": ladder}
    return {
        "engine": proof.backend,
        "ladder": ladder,
        "verdict": verdict,
        "problem": proof.problem,
        "command": proof.command if verdict is None else "",
    }


def _print(proof: ArtifactProof, *, verbose: bool) -> None:
    """Print the ladder and the verdict, or what stays pending, why, and the command that completes it."""
    from convkit.cli._console import stdout
    from convkit.cli._ladder import print_ladder
    from convkit.cli._verdict import print_verdict

    console = stdout()
    if proof.verdict is None:
        print_ladder(proof.ladder, console)
        console.print(f"The engine was not run: {proof.problem}", markup=False)
        console.print(f"Prove it where it will run: {proof.command}", markup=False)
        return
    print_ladder(proof.ladder, console)
    console.print()
    print_verdict(proof.verdict, console, verbose=verbose)
