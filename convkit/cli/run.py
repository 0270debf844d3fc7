"""``convkit run``: images, folders and videos through an artifact."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
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
    VerboseOption,
)

if TYPE_CHECKING:
    import numpy as np

    from convkit.processing import Frame
    from convkit.results import Result

DRAW_SCORE = 0.3
"""Below this score boxes clutter a picture more than they tell."""


def run(
    artifact: ArtifactArgument,
    sources: Annotated[
        list[Path], typer.Argument(help="Images, folders of images, videos.", metavar="IMAGE|DIR|VIDEO…")
    ],
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Draw the results into this folder.", metavar="DIR")
    ] = None,
    score: Annotated[
        float | None,
        typer.Option("--score", min=0, max=1, help=f"Lowest score to report; drawing uses {DRAW_SCORE} by default."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images to run at a time.")] = 1,
    backend: BackendOption = "onnxruntime",
    device: DeviceOption = "cpu",
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run images through an artifact; `--json` prints one object an image, a line each."""
    set_verbosity(quiet=quiet, verbose=verbose)
    import time

    from convkit.cli._console import emit, emit_json, stderr, steps
    from convkit.processing import frames
    from convkit.runtime import load

    def warn(text: str) -> None:
        stderr().print(f"warning: {text}", markup=False)

    writer = _Drawer(draw, sources) if draw else None
    count, started = 0, time.perf_counter()
    with steps("run") as step:
        step("loading")
        predictor = load(artifact, backend=backend, device=device)
        with predictor:
            for frame, result in _results(predictor, frames(sources, note=warn), batch):
                shown = _above(result, score)
                if json:
                    emit_json({"image": frame.source, **shown.to_json()}, indent=None)
                else:
                    emit(f"{frame.source}: {_above(result, score if score is not None else DRAW_SCORE).summary()}")
                if writer:
                    writer(frame, _above(result, score if score is not None else DRAW_SCORE))
                count += 1
                step("running images", count)
    if writer:
        stderr().print(f"{count} drawings in {draw} ({time.perf_counter() - started:.1f} s)", markup=False)
    return 0


def _results(predictor: Any, source: Iterable[Frame], batch: int) -> Iterator[tuple[Frame, Result]]:
    """Yield (frame, result) in order; the predictor decides how many frames it holds at a time.

    Raises:
        ImageError: a frame cannot be read or prepared; its source is named.
    """
    from convkit.errors import ImageError

    waiting: deque[Frame] = deque()
    in_hand = ""

    def images() -> Iterator[np.ndarray]:
        nonlocal in_hand
        for frame in source:
            waiting.append(frame)
            in_hand = frame.source
            yield frame.image
            in_hand = ""

    try:
        for result in predictor.stream(images(), batch=batch):
            yield waiting.popleft(), result
    except ImageError as error:
        if not in_hand:
            raise
        raise ImageError(f"{in_hand}: {error.message}", hint=error.hint) from error


def _above(result: Result, score: float | None) -> Result:
    from convkit.results import Detections

    return result.above(score) if score is not None and isinstance(result, Detections) else result


class _Drawer:
    """Writes drawings; a name that comes twice gets a number, and no input is overwritten.

    Raises:
        OutputError: the folder cannot be made, or a drawing would overwrite an input, by whatever path or link, or
            another file beside the inputs. As far as the names are known, that is found before anything is run.
    """

    def __init__(self, folder: Path, sources: list[Path]) -> None:
        from convkit.errors import OutputError
        from convkit.processing import frame_name, input_files

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make {folder}: {error.strerror}.", hint="Give another --draw folder.") from error
        self.folder = folder
        files = list(input_files(sources))
        self._inputs = set(filter(None, map(_identity, files)))
        folders = {parent for file in files for parent in (file.parent, file.resolve().parent)}
        self._among_inputs = _identity(folder) in set(map(_identity, folders))
        self.used: set[str] = set()
        for file in files:
            self._target(frame_name(file, 0))
        self.used.clear()

    def __call__(self, frame: Frame, result: Result) -> None:
        import cv2

        from convkit.errors import OutputError

        target = self._target(frame.name)
        good, data = cv2.imencode(target.suffix, result.draw(frame.image))
        temporary = self.folder / f".{os.getpid()}.partial"
        try:
            if not good:
                raise OSError("OpenCV cannot encode it")
            # Renamed into place, a drawing replaces a link instead of the file that the link leads to.
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as stream:
                stream.write(data.tobytes())
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"Cannot write {target}: {error}.", hint="Is the disk full?") from error

    def _target(self, source: str) -> Path:
        """Return the file for the drawing of an image of that name, which is no input."""
        from convkit.errors import OutputError

        stem, suffix = Path(source).stem, Path(source).suffix.lower()
        suffix = suffix if suffix in (".png", ".jpg", ".jpeg") else ".png"
        name, number = f"{stem}{suffix}", 1
        while name in self.used:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self.used.add(name)
        target = self.folder / name
        if (identity := _identity(target)) and (identity in self._inputs or self._among_inputs):
            kind = "an input" if identity in self._inputs else "a file beside the inputs"
            raise OutputError(
                f"The drawing of {source} would overwrite {target}, {kind}.",
                hint="Give a --draw folder of its own, for example --draw drawings.",
            )
        return target


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies a file or folder by all its paths and links; None where nothing is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
