"""``convkit run``: images, folders, videos and streams, or what else the model takes, through an artifact."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convkit.cli._console import set_verbosity
from convkit.cli._options import (
    ArtifactArgument,
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
    import numpy as np

    from convkit.errors import InputError
    from convkit.processing import Frame
    from convkit.results import Result
    from convkit.runtime import Predictor

DRAW_SCORE = 0.3
"""That of `convkit.results`, which is imported when it is needed."""


def run(
    artifact: ArtifactArgument,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Images, folders, patterns, videos, addresses of streams, numbers of cameras;"
            " .npz or .json files where the model takes these.",
            metavar="INPUT…",
        ),
    ] = None,
    coco: Annotated[
        Path | None, typer.Option("--coco", help="Run the images that a COCO file lists.", metavar="FILE")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="Folder of the images of --coco; by default that of the file.", metavar="DIR"),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="What belongs to each input: a folder with a file of the input's name, or a file for all.",
            metavar="NAME=DIR",
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Draw the results into this folder.", metavar="DIR")
    ] = None,
    save_video: Annotated[
        Path | None,
        typer.Option("--save-video", help="Draw the results into this video: .mp4, .mov, .avi.", metavar="FILE"),
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option("--npz", help="Write the undecoded outputs of each input into this folder.", metavar="DIR"),
    ] = None,
    kitti: Annotated[
        Path | None,
        typer.Option("--kitti", help="Write boxes in space into this folder, as KITTI's result files.", metavar="DIR"),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option("--score", min=0, max=1, help=f"Lowest score to report; drawing uses {DRAW_SCORE} by default."),
    ] = None,
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Go on after an input that cannot be read or used."),
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="End after N inputs.", metavar="N")] = None,
    batch: Annotated[
        str, typer.Option("--batch", help="Inputs to run at a time; auto: as many as memory has room for.", metavar="N")
    ] = "1",
    augment: AugmentOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    unproved: UnprovedOption = False,
    signed_by: SignedByOption = None,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run inputs through an artifact; `--json` prints one object an input, each on one line.

    A model without decode, or `--npz`, gives the outputs of the network themselves. At an input that cannot be read
    the run ends with exit code 1, and what was done before is kept; with `--skip-bad` it goes on and names them.
    A camera or stream runs until it ends, `--limit` is reached or Ctrl-C is pressed.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    import time

    from convkit.cli._companions import Companions
    from convkit.cli._console import printable, stderr, steps
    from convkit.cli._coverage import say_coverage
    from convkit.cli._html import outside
    from convkit.cli._result_files import ArrayFiles, DrawingFiles, KittiFiles
    from convkit.cli._result_video import VideoFile
    from convkit.errors import SettingError
    from convkit.runtime import load

    def warn(text: str) -> None:
        sys.stderr.write(printable(f"warning: {text}\n"))  # even if nothing else is said: results are missing

    bad: list[str] = []

    def skip(name: object, error: InputError) -> None:
        bad.append(str(name))
        told = error.message if str(name) in error.message else f"{name}: {error.message}"
        sys.stderr.write(printable(f"skipped: {told}\n"))

    listed = _listed(sources or [], coco, images, complete=not skip_bad)
    inputs = [*(sources or []), *listed]
    size = _batch_size(batch)
    with ExitStack() as stack:
        step = stack.enter_context(steps("run"))
        step("loading")
        loaded = load(
            artifact,
            backend=backend,
            device=device,
            unproved=unproved,
            signed_by=signed_by,
            augment=augmentation(augment),
        )
        predictor = stack.enter_context(loaded)
        raw = npz is not None or not predictor.decodes
        if raw and kitti:
            raise SettingError("Outputs of the network are no boxes.", hint="Leave --kitti or --npz out.")
        if raw and (draw or save_video):
            raise SettingError(
                "Outputs of the network cannot be drawn.",
                hint=f"Leave {'--draw' if draw else '--save-video'} out, or --npz where the model decodes.",
            )
        for target in filter(None, (draw, npz, kitti, save_video)):
            outside(target, predictor.artifact)
        say_coverage(predictor)
        drawings = stack.enter_context(DrawingFiles(draw, inputs, predictor.reader)) if draw else None
        arrays = stack.enter_context(ArrayFiles(npz, inputs, predictor.reader)) if npz else None
        boxes = stack.enter_context(KittiFiles(kitti, inputs, predictor.reader)) if kitti else None
        video = stack.enter_context(VideoFile(save_video, inputs, predictor.reader)) if save_video else None
        skipping = skip if skip_bad else None
        companions = Companions(beside or [], listed, predictor.reader)
        frames = companions.join(predictor.reader.frames(inputs, note=warn, bad=skipping), skipping)
        frames = islice(frames, limit)
        if size is None:
            step("looking for the batch size")
            size, frames = _fitting(predictor, frames)
            stderr().print(f"batch: {size}", markup=False)
        started = time.perf_counter()
        count = 0
        step("running")
        for frame, found in _in_step(predictor, frames, size, raw=raw, bad=skipping):
            if raw:
                _show_outputs(predictor, frame, found, json=json)
            else:
                _show_result(predictor, frame, found, score, json=json)
            if drawings or video:
                drawn = _drawn(frame, found.above(score if score is not None else DRAW_SCORE))
                if drawings:
                    drawings.write(frame.name, drawn)
                if video:
                    video.write(drawn, frame.rate)
            if boxes:
                boxes.write(frame.name, found.above(score or 0.0))
            if arrays:
                arrays.write(frame.name, found)
            count += 1
            step("running", count)
        seconds = time.perf_counter() - started
    for place, what in (
        (draw, "drawings in"),
        (npz, "files in"),
        (kitti, "results in"),
        (save_video if count else None, "images in"),
    ):
        if place:
            rate = f", {count / seconds:.1f} a second" if count > 1 else ""
            stderr().print(f"{count} {what} {place} ({seconds:.1f} s{rate})", markup=False)
    if video and video.scaled:
        warn(f"images of other sizes than the first were scaled into {save_video}")
    if bad:
        sys.stderr.write(f"{len(bad)} of {len(bad) + count} skipped\n")
    return 1 if bad and not count else 0


def _listed(sources: list[str], coco: Path | None, images: Path | None, *, complete: bool) -> dict[str, dict[str, Any]]:
    """Return the files of an annotation file with their entries; where it need not be ``complete``, missing ones too.

    Raises:
        SettingError: there are none, or a folder of images but no file that lists them.
    """
    from convkit.errors import SettingError

    if images and not coco:
        raise SettingError("--images is the folder of the images of --coco.", hint="Give the folder as an input.")
    if not sources and not coco:
        raise SettingError("There is no input.", hint="Give files, folders, a video or a stream, or --coco FILE.")
    if coco is None:
        return {}
    from convkit.evaluation import listed_images

    return {str(file): entry for file, entry in listed_images(coco, images, complete=complete).items()}


def _batch_size(text: str) -> int | None:
    """Return the number of inputs to run at a time, None for ``auto``.

    Raises:
        SettingError: it is neither.
    """
    from convkit.errors import SettingError

    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SettingError(f"--batch {text} is no number of inputs.", hint="Give a number from 1 on, or auto.")
    return int(text)


def _fitting(predictor: Predictor, frames: Iterator[Frame]) -> tuple[int, Iterator[Frame]]:
    """Return the largest batch of the first frame that memory has room for, and all frames."""
    first = next(frames, None)
    if first is None:
        return 1, frames
    return predictor.fitting_batch(first.raw), chain([first], frames)


def _show_result(predictor: Predictor, frame: Frame, result: Result, score: float | None, *, json: bool) -> None:
    from convkit.cli._console import emit, emit_json

    if json:
        shown = result.above(score) if score is not None else result
        emit_json({_key(predictor): frame.source, **shown.to_json(), **_unproved(predictor)}, indent=None)
    else:
        emit(f"{frame.source}: {result.above(score if score is not None else DRAW_SCORE).summary()}")


def _show_outputs(predictor: Predictor, frame: Frame, outputs: dict[str, np.ndarray], *, json: bool) -> None:
    from convkit.cli._console import emit, emit_json, stderr

    if trouble := predictor.trouble(outputs):
        stderr().print(f"warning: {frame.source}: {trouble}", markup=False)
    table = {name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in outputs.items()}
    if json:
        emit_json({_key(predictor): frame.source, "outputs": table, **_unproved(predictor)}, indent=None)
    else:
        shown = ", ".join(f"{name} {entry['dtype']} {entry['shape']}" for name, entry in table.items())
        emit(f"{frame.source}: {shown}")


def _unproved(predictor: Predictor) -> dict[str, bool]:
    """Return what a document says of results that no proof covers."""
    return {"unproved": True} if predictor.unproved else {}


def _key(predictor: Predictor) -> str:
    return "image" if predictor.reader.noun == "image" else "input"


def _in_step(
    predictor: Predictor,
    source: Iterable[Frame],
    batch: int,
    *,
    raw: bool,
    bad: Callable[[object, InputError], None] | None = None,
) -> Iterator[tuple[Frame, Any]]:
    """Yield (frame, result or outputs) in order; the predictor decides how many frames it holds at a time.

    A frame that cannot be prepared goes to ``bad``. Without ``bad``, or where the source itself fails, the frames
    before it are run to their end first.

    Raises:
        InputError: a frame cannot be read or prepared; its source is named.
        NotFiniteError: the engine returned NaN or infinity for a frame; its source is named.
    """
    from convkit.errors import InputError, NotFiniteError

    frames, in_hand = iter(source), ""
    waiting: deque[Frame] = deque()

    def inputs(again: list[Frame]) -> Iterator[Any]:
        nonlocal in_hand
        for frame in chain(again, frames):
            waiting.append(frame)
            in_hand = frame.source
            yield frame.raw
            in_hand = ""

    stream = predictor.stream_outputs if raw else predictor.stream
    failure: InputError | None = None
    again: list[Frame] = []
    while True:
        try:
            for found in stream(inputs(again), batch=batch):
                yield waiting.popleft(), found
        except NotFiniteError as error:
            raise error.of(waiting[error.row].source) from error
        except InputError as error:
            if failure:
                raise
            named = error
            if in_hand:
                named = InputError(f"{in_hand}: {error.message}", hint=error.hint)
                named.__cause__ = error
            if bad and in_hand:
                bad(in_hand, named)
            else:
                failure, frames = named, iter(())
            again = list(waiting)[:-1] if in_hand else list(waiting)
            waiting.clear()
            in_hand = ""
            continue
        if failure:
            raise failure
        return


def _drawn(frame: Frame, result: Result) -> np.ndarray:
    from convkit.errors import OutputError

    drawn = result.draw(frame.raw)
    if drawn is None:
        raise OutputError(
            f"Results of the kind {type(result).__name__} cannot be drawn.",
            hint="Leave --draw and --save-video out; --json prints the results.",
        )
    return drawn
