"""``convkit validate``: prove an artifact again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import (
    ArtifactArgument,
    BackendOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    VerboseOption,
)


def validate(
    artifact: ArtifactArgument,
    backend: BackendOption = "onnxruntime",
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
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check the hashes of an artifact and prove it again on this machine; exit 4 if it is not proved.

    The engine of a backend that builds engines gets its upper rungs here; without a GPU that runs it they stay pending.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.backends import backend_named
    from convkit.cli._console import emit_json, stdout, steps
    from convkit.cli._verdict import print_verdict
    from convkit.errors import ValidationError
    from convkit.proof import validate as prove_again

    if backend_named(backend).builds:
        return _validate_engine(
            artifact, backend, device, save_results, require_proof=require_proof, json=json, verbose=verbose
        )
    with steps(f"validate {artifact}") as step:
        verdict = prove_again(artifact, backend=backend, device=device, save_results=save_results, progress=step)
    if json:
        emit_json(verdict.to_json())
    else:
        print_verdict(verdict, stdout(), verbose=verbose)
    return 0 if verdict.passed else ValidationError.exit_code


def _validate_engine(
    artifact: Path,
    backend: str,
    device: str | None,
    save_results: Path | None,
    *,
    require_proof: bool,
    json: bool,
    verbose: bool,
) -> int:
    """Prove the engine of an artifact, or print what stays pending, why, and the command that completes it."""
    from convkit.cli._console import emit_json, stdout, steps
    from convkit.cli._ladder import print_ladder
    from convkit.cli._verdict import print_verdict
    from convkit.errors import EnvironmentProblem, ValidationError
    from convkit.evaluation import prove_engine

    with steps(f"validate {artifact}") as step:
        proof = prove_engine(artifact, backend, device=device, save_results=save_results, progress=step)
    verdict = proof.verdict
    if json:
        emit_json(
            {
                "engine": backend,
                "ladder": proof.ladder.to_json(),
                "verdict": verdict.to_json() if verdict else None,
                "problem": proof.problem,
                "command": proof.command if verdict is None else "",
            }
        )
    else:
        console = stdout()
        if verdict:
            print_verdict(verdict, console, verbose=verbose)
        print_ladder(proof.ladder, console)
        if verdict is None:
            console.print(f"The engine was not run: {proof.problem}", markup=False)
            console.print(f"Prove it where it will run: {proof.command}", markup=False)
    if verdict is None:
        return EnvironmentProblem.exit_code if require_proof else 0
    return 0 if verdict.passed else ValidationError.exit_code
