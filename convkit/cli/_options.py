"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ArtifactArgument",
    "AugmentOption",
    "BackendOption",
    "CalibrateOption",
    "CalibrationOption",
    "DeviceOption",
    "JsonOption",
    "QuietOption",
    "SignedByOption",
    "TargetOption",
    "UnprovedOption",
    "VerboseOption",
    "augmentation",
]

ArtifactArgument = Annotated[Path, typer.Argument(help="An artifact directory.", metavar="ARTIFACT")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but results and errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print how long each step takes, and more.")]
TargetOption = Annotated[
    list[str] | None,
    typer.Option("--target", help="Compute capabilities to build for: sm86,sm89 …", metavar="SM[,SM…]"),
]
CalibrateOption = Annotated[
    Path | None, typer.Option("--calibrate", help="Inputs that int8 is calibrated with: a folder.", metavar="DIR")
]
CalibrationOption = Annotated[
    str | None, typer.Option("--calibration", help="How: minmax, entropy or percentile.", metavar="METHOD")
]
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
AugmentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--augment",
        help="Test-time augmentation of the adapter, such as flip or scales=0.5,1,1.5; may be repeated.",
        metavar="NAME[=VALUE]",
    ),
]


def augmentation(given: Sequence[str] | None) -> dict[str, str] | None:
    """Return the settings of `AugmentOption` by name, ``yes`` for a name alone; None where the option is not given.

    Raises:
        SettingError: a name is empty or comes twice.
    """
    if not given:
        return None
    from convkit.errors import SettingError

    found: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name or name in found:
            raise SettingError(
                f"--augment {text} {'gives ' + name + ' twice' if name else 'has no name'}.",
                hint="Give each once, as NAME or NAME=VALUE.",
            )
        found[name] = value if "=" in text else "yes"
    return found
