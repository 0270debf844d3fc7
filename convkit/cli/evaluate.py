"""``convkit evaluate``: the average precision of an artifact on a COCO-format data set."""

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
    SignedByOption,
    UnprovedOption,
    VerboseOption,
)


def evaluate(
    artifact: ArtifactArgument,
    coco: Annotated[Path, typer.Option("--coco", help="Annotations in COCO format.", metavar="ANN.json")],
    images: Annotated[Path, typer.Option("--images", help="Folder of the images.", metavar="DIR")],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", help="Evaluate this checkpoint in PyTorch too and compare.", metavar="FILE"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N images.")] = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    unproved: UnprovedOption = False,
    signed_by: SignedByOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Print AP@[.5:.95], AP50 and the other COCO figures of an artifact; images are streamed."""
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.cli._console import emit_json, stderr, stdout, steps
    from convkit.cli._coverage import say_unproved
    from convkit.cli._layout import add_row, show, table
    from convkit.evaluation import evaluate_artifact

    with steps("evaluate") as step:
        report = evaluate_artifact(
            artifact,
            coco,
            images,
            weights=weights,
            limit=limit,
            backend=backend,
            device=device,
            unproved=unproved,
            signed_by=signed_by,
            progress=step,
        )
    if report.unproved:
        say_unproved(report.unproved)
    for note in report.notes:
        stderr().print(f"note: {note}", markup=False)
    if json:
        emit_json(report.to_json())
    else:
        rows = table("", *report.figures)
        for metric in next(iter(report.figures.values())):
            add_row(rows, metric, *(_figure(values[metric]) for values in report.figures.values()))
        show(stdout(), rows, f"{report.images} images, {report.annotations} annotations, {report.seconds:.1f} s")
    return 0 if report.agrees else 4


def _figure(value: float) -> str:
    """Return a COCO figure; -1 stands for no annotation of that size."""
    return "-" if value < 0 else f"{value:.4f}"
