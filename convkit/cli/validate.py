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
    device: DeviceOption = "cpu",
    save_results: Annotated[
        Path | None,
        typer.Option(
            "--save-results", help="Keep the outputs of all engines as polygraphy's JSON.", metavar="FILE.json"
        ),
    ] = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check the hashes of an artifact and prove it again on this machine; exit 4 if it is not proved."""
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.cli._console import emit_json, stdout, steps
    from convkit.cli._verdict import print_verdict
    from convkit.errors import ValidationError
    from convkit.proof import validate as prove_again

    with steps(f"validate {artifact}") as step:
        verdict = prove_again(artifact, backend=backend, device=device, save_results=save_results, progress=step)
    if json:
        emit_json(verdict.to_json())
    else:
        print_verdict(verdict, stdout(), verbose=verbose)
    return 0 if verdict.passed else ValidationError.exit_code
