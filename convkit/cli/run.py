"""``convkit run``: images, folders and videos, or what else the model takes, through an artifact."""

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
    UnprovedOption,
    VerboseOption,
)

if TYPE_CHECKING:
    import numpy as np

    from convkit.processing import Frame, Reader
    from convkit.results import Result
    from convkit.runtime import Predictor

DRAW_SCORE = 0.3
"""That of `convkit.results`, which is imported when it is needed."""


def run(
    artifact: ArtifactArgument,
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders, videos; .npz or .json files where the model takes these.", metavar="FILE|DIR…"
        ),
    ],
    draw: Annotated[
        Path | None, typer.Option("--draw", help="Draw the results into this folder.", metavar="DIR")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option("--npz", help="Write the undecoded outputs of each input into this folder.", metavar="DIR"),
    ] = None,
    score: Annotated[
        float | None,
        typer.Option("--score", min=0, max=1, help=f"Lowest score to report; drawing uses {DRAW_SCORE} by default."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs to run at a time.")] = 1,
    backend: BackendOption = None,
    device: DeviceOption = None,
    unproved: UnprovedOption = False,
    json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> int:
    """Run inputs through an artifact; `--json` prints one object an input, each on one line.

    A model without decode, or `--npz`, gives the outputs of the network themselves.
    """
    set_verbosity(quiet=quiet, verbose=verbose)
    import time

    from convkit.cli._console import stderr, steps
    from convkit.cli._coverage import say_coverage
    from convkit.errors import SettingError
    from convkit.runtime import load

    def warn(text: str) -> None:
        stderr().print(f"warning: {text}", markup=False)

    started = time.perf_counter()
    with steps("run") as step:
        step("loading")
        with load(artifact, backend=backend, device=device, unproved=unproved) as predictor:
            raw = npz is not None or not predictor.decodes
            if raw and draw:
                raise SettingError(
                    "Outputs of the network cannot be drawn.",
                    hint="Leave --draw out, or --npz where the model decodes.",
                )
            say_coverage(predictor)
            writer = _Drawer(draw, sources, predictor.reader) if draw else None
            arrays = _ArrayWriter(npz) if npz else None
            frames = predictor.reader.frames(sources, note=warn)
            count = 0
            for frame, found in _in_step(predictor, frames, batch, raw=raw):
                if raw:
                    _show_outputs(predictor, frame, found, json=json)
                else:
                    _show_result(predictor, frame, found, score, json=json)
                if writer:
                    writer(frame, found.above(score if score is not None else DRAW_SCORE))
                if arrays:
                    arrays(frame, found)
                count += 1
                step("running", count)
    for folder, what in ((draw, "drawings"), (npz, "files")):
        if folder:
            stderr().print(f"{count} {what} in {folder} ({time.perf_counter() - started:.1f} s)", markup=False)
    return 0


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


def _in_step(predictor: Predictor, source: Iterable[Frame], batch: int, *, raw: bool) -> Iterator[tuple[Frame, Any]]:
    """Yield (frame, result or outputs) in order; the predictor decides how many frames it holds at a time.

    Raises:
        InputError: a frame cannot be read or prepared; its source is named.
        NotFiniteError: the engine returned NaN or infinity for a frame; its source is named.
    """
    from convkit.errors import InputError, NotFiniteError

    waiting: deque[Frame] = deque()
    in_hand = ""

    def inputs() -> Iterator[Any]:
        nonlocal in_hand
        for frame in source:
            waiting.append(frame)
            in_hand = frame.source
            yield frame.raw
            in_hand = ""

    stream = predictor.stream_outputs if raw else predictor.stream
    try:
        for found in stream(inputs(), batch=batch):
            yield waiting.popleft(), found
    except NotFiniteError as error:
        raise error.of(waiting[error.row].source) from error
    except InputError as error:
        if not in_hand:
            raise
        raise InputError(f"{in_hand}: {error.message}", hint=error.hint) from error


class _Drawer:
    """Writes drawings; a name that comes twice gets a number, and no input is overwritten.

    Raises:
        OutputError: the folder cannot be made, or a drawing would overwrite an input, by whatever path or link, or
            another file beside the inputs. As far as the names are known, that is found before anything is run.
    """

    def __init__(self, folder: Path, sources: list[Path], reader: Reader) -> None:
        from convkit.errors import OutputError

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make {folder}: {error.strerror}.", hint="Give another --draw folder.") from error
        self.folder = folder
        files = list(reader.files(sources))
        self._inputs = set(filter(None, map(_identity, files)))
        folders = {parent for file in files for parent in (file.parent, file.resolve().parent)}
        self._among_inputs = _identity(folder) in set(map(_identity, folders))
        self.used: set[str] = set()
        for file in files:
            self._target(reader.result_name(file))
        self.used.clear()

    def __call__(self, frame: Frame, result: Result) -> None:
        import cv2

        from convkit.errors import OutputError

        target = self._target(frame.name)
        drawn = result.draw(frame.raw)
        if drawn is None:
            raise OutputError(
                f"A {type(result).__name__} cannot be drawn.", hint="Leave --draw out; --json prints the results."
            )
        good, data = cv2.imencode(target.suffix, drawn)
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


class _ArrayWriter:
    """Writes the outputs of each input to an ``.npz`` file; a name that comes twice gets a number."""

    def __init__(self, folder: Path) -> None:
        from convkit.errors import OutputError

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make {folder}: {error.strerror}.", hint="Give another --npz folder.") from error
        self.folder = folder
        self.used: set[str] = set()

    def __call__(self, frame: Frame, outputs: dict[str, np.ndarray]) -> None:
        import numpy as np

        from convkit.errors import OutputError

        stem, number = Path(frame.name).stem, 1
        name = stem
        while name in self.used:
            number += 1
            name = f"{stem}-{number}"
        self.used.add(name)
        target = self.folder / f"{name}.npz"
        if _identity(target) is not None and _identity(target) == _identity(Path(frame.source)):
            raise OutputError(f"The outputs of {frame.source} would overwrite it.", hint="Give another --npz folder.")
        temporary = self.folder / f".{os.getpid()}.partial"
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, **outputs)  # type: ignore[arg-type]
            temporary.replace(target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise OutputError(f"Cannot write {target}: {error}.", hint="Is the disk full?") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies a file or folder by all its paths and links; None where nothing is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
