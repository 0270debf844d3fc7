"""``convkit sign``: sign an artifact with a key of one's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import ArtifactArgument, JsonOption, QuietOption

PASSWORD = "CONVKIT_KEY_PASSWORD"  # noqa: S105 - the name of a variable


def sign(
    artifact: ArtifactArgument,
    key: Annotated[Path, typer.Option("--key", help="The private key, on an elliptic curve (PEM).", metavar="FILE")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Sign every file of a proved artifact, so that `validate --signed-by` can tell who made it.

    Sign when all engines are built and proved: what is written into the artifact later makes the signature invalid.
    """
    set_verbosity(quiet=quiet)
    from convkit.artifact import Artifact, sign_artifact
    from convkit.cli._console import emit, emit_json

    file = sign_artifact(Artifact.open(artifact), key, password=os.environ.get(PASSWORD) or None)
    if json:
        emit_json({"artifact": str(artifact), "signature": str(file)})
    else:
        emit(str(file))
    return 0
