"""``convkit evaluate``: the average precision of artifacts on a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import (
    AugmentOption,
    BackendOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    SignedByOption,
    UnprovedOption,
    VerboseOption,
    augmentation,
)

if TYPE_CHECKING:
    from rich.table import Table

    from convkit.evaluation import DataSet, EvaluationReport

__all__ = ["evaluate"]


def evaluate(
    artifacts: Annotated[
        list[Path], typer.Argument(help="Artifact directories; several are compared.", metavar="ARTIFACT…")
    ],
    coco: Annotated[Path | None, typer.Option("--coco", help="Annotations in COCO format.", metavar="ANN.json")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the images of --coco.", metavar="DIR")
    ] = None,
    voc: Annotated[
        Path | None, typer.Option("--voc", help="A folder of Pascal VOC, such as VOCdevkit/VOC2007.", metavar="DIR")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="A split of --voc, such as test; by default all.", metavar="NAME")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", help="Evaluate this checkpoint in PyTorch too and compare.", metavar="PATH"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N images.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Keep results in this file, and go on with those in it.", metavar="FILE"),
    ] = None,
    classes: Annotated[bool, typer.Option("--classes", help="Print the figures of each class too.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the AP of each class: .svg or .png.", metavar="FILE")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", help="Draw the images in which two artifacts differ into this folder.", metavar="DIR"),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option("--score", min=0, max=1, help="Lowest score that counts where artifacts differ; 0.3 by default."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", min=0, help="Exit 4 if the AP falls by more from the first artifact to another."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Run images on a Ray cluster; local starts Ray here.", metavar="ADDRESS"),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images to run at a time.")] = 1,
    augment: AugmentOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    unproved: UnprovedOption = False,
    signed_by: SignedByOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Print AP@[.5:.95], AP50 and the other COCO figures of artifacts, or Pascal VOC's; images are streamed.

    Poses are judged by key points and by boxes. Of two artifacts the difference and what only one of them finds is
    printed too.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    from convkit.cli._console import emit_json, stderr, stdout, steps
    from convkit.cli._coverage import say_unproved
    from convkit.cli._layout import show
    from convkit.cli._result_files import DrawingFiles
    from convkit.errors import SettingError, ValidationError
    from convkit.evaluation import EvaluationOptions, check_plot, evaluate_artifacts, write_class_plot
    from convkit.processing import ImageReader
    from convkit.results import DRAW_SCORE

    for option, given in (("--draw", draw), ("--max-drop", max_drop), ("--score", score)):
        if given is not None and len(artifacts) < 2:
            raise SettingError(f"{option} compares artifacts, and there is one.", hint="Give a second artifact.")
    data = _data(coco, images, voc, split)
    options = EvaluationOptions(
        weights=weights,
        limit=limit,
        batch=batch,
        resume=resume,
        ray=ray,
        backend=backend,
        device=device,
        unproved=unproved,
        signed_by=signed_by,
        augment=augmentation(augment),
        score=DRAW_SCORE if score is None else score,
    )
    if plot:
        check_plot(plot)
    with steps("evaluate") as step, ExitStack() as stack:
        drawings = stack.enter_context(DrawingFiles(draw, [], ImageReader())) if draw else None
        report = evaluate_artifacts(artifacts, data, options, draw=drawings.write if drawings else None, progress=step)
        if plot:
            step("drawing the plot")
            write_class_plot(report, plot)
    if report.unproved:
        say_unproved(report.unproved)
    for note in report.notes:
        stderr().print(f"note: {note}", markup=False)
    if json:
        emit_json(report.to_json())
    else:
        tables = [_figures(report), *([_classes(report)] if classes else [])]
        show(stdout(), *tables, *_summary(report))
    if weights is not None and not report.agrees:
        raise ValidationError(
            "The AP of the checkpoint and of the first artifact differ by more than 0.001.",
            hint="`convkit bisect ARTIFACT` shows the nodes where a precision or backend departs from float64.",
        )
    if max_drop is not None and report.drop > max_drop:
        raise ValidationError(
            f"The AP falls by {report.drop:.4f}; --max-drop allows {max_drop:g}.",
            hint="Of a lower precision more can be kept in float32: --precision auto or --keep-fp32 FILE.",
        )
    return 0


def _data(coco: Path | None, images: Path | None, voc: Path | None, split: str | None) -> DataSet:
    from convkit.errors import SettingError
    from convkit.evaluation import CocoFiles, VocFolder

    if coco and images and not voc and split is None:
        return CocoFiles(coco, images)
    if voc and not coco and not images:
        return VocFolder(voc, split)
    raise SettingError(
        "The data set is not given, or not one alone.",
        hint="Give --coco ANN.json --images DIR, or --voc DIR and perhaps --split NAME.",
    )


def _figures(report: EvaluationReport) -> Table:
    """Return a row for each figure; of two artifacts with their difference."""
    from convkit.cli._layout import add_row, table

    names = list(report.figures)
    differ = ["difference"] if report.changes and len(names) == 2 else []
    rows = table("", *names, *differ)
    for metric in report.figures[names[0]]:
        values = [report.figures[name][metric] for name in names]
        add_row(rows, metric, *map(_figure, values), *([_difference(*values)] if differ else []))
    return rows


def _classes(report: EvaluationReport) -> Table:
    """Return a row for each class: the figures of a single engine, else the AP of each."""
    from convkit.cli._layout import add_row, table

    names = list(report.classes)
    first = report.classes[names[0]]
    if len(names) == 1:
        rows = table("class", *next(iter(first.values()), {}))
        for label, values in first.items():
            add_row(rows, label, *map(_figure, values.values()))
        return rows
    rows = table("class", *(f"AP {name}" for name in names))
    for label in first:
        add_row(rows, label, *(_figure(report.classes[name][label]["AP"]) for name in names))
    return rows


def _summary(report: EvaluationReport) -> Iterator[str]:
    kept = f", {report.kept} results kept from before" if report.kept else ""
    yield f"{report.images} images, {report.annotations} annotations, {report.seconds:.1f} s{kept}"
    if report.changes:
        only = ", ".join(f"{count} only by {name}" for name, count in report.changes.only.items())
        what = f"found {only} (score {report.changes.score} or more)"
        yield f"{report.changes.images} images differ: {what}" if report.changes.images else "no image differs"


def _figure(value: float) -> str:
    """Return a COCO figure; -1 stands for no annotation of that size."""
    return "-" if value < 0 else f"{value:.4f}"


def _difference(first: float, second: float) -> str:
    return "-" if first < 0 or second < 0 else f"{second - first:+.4f}"
