"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ArtifactArgument",
    "BackendOption",
    "DeviceOption",
    "JsonOption",
    "QuietOption",
    "SignedByOption",
    "UnprovedOption",
    "VerboseOption",
]

ArtifactArgument = Annotated[Path, typer.Argument(help="An artifact directory.", metavar="ARTIFACT")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but results and errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print how long each step takes, and more.")]
BackendOption = Annotated[
    str | None, typer.Option("--backend", help="Inference engine; by default the one that proved it.", metavar="NAME")
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda:0 …; by default where it was proved.", metavar="DEVICE"),
]
SignedByOption = Annotated[
    Path | None,
    typer.Option("--signed-by", help="Refuse what the owner of this public key (PEM) did not sign.", metavar="KEY"),
]
UnprovedOption = Annotated[bool, typer.Option("--unproved", help="Run an engine or device that no proof covers.")]
