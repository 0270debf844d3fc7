"""``convkit run``: images, folders and videos through an artifact."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convkit.cli._options import (
    ArtifactArgument,
    BackendOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    VerboseOption,
    set_talk,
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
    set_talk(quiet=quiet, verbose=verbose)
    import time

    from convkit.cli._console import emit, emit_json, talk
    from convkit.processing import frames
    from convkit.runtime import load

    writer = _Drawer(draw) if draw else None
    count, started = 0, time.perf_counter()
    with talk("run") as step:
        step("loading")
        predictor = load(artifact, backend=backend, device=device)
        with predictor:
            for frame, result in _results(predictor, frames(sources), batch):
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
        from convkit.cli._console import stderr

        stderr().print(f"{count} drawings in {draw} ({time.perf_counter() - started:.1f} s)", markup=False)
    return 0


def _results(predictor: Any, source: Iterable[Frame], batch: int) -> Iterator[tuple[Frame, Result]]:
    """Yield (frame, result) in order; the predictor decides how many frames it holds at a time."""
    waiting: deque[Frame] = deque()

    def images() -> Iterator[np.ndarray]:
        for frame in source:
            waiting.append(frame)
            yield frame.image

    for result in predictor.stream(images(), batch=batch):
        yield waiting.popleft(), result


def _above(result: Result, score: float | None) -> Result:
    from convkit.results import Detections

    return result.above(score) if score is not None and isinstance(result, Detections) else result


class _Drawer:
    """Writes drawings; a name that comes twice gets a number."""

    def __init__(self, folder: Path) -> None:
        from convkit.errors import OutputError

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make {folder}: {error.strerror}.", hint="Give another --draw folder.") from error
        self.folder = folder
        self.used: set[str] = set()

    def __call__(self, frame: Frame, result: Result) -> None:
        import cv2

        from convkit.errors import OutputError

        stem, suffix = Path(frame.name).stem, Path(frame.name).suffix.lower()
        suffix = suffix if suffix in (".png", ".jpg", ".jpeg") else ".png"
        name, number = f"{stem}{suffix}", 1
        while name in self.used:
            number += 1
            name = f"{stem}-{number}{suffix}"
        self.used.add(name)
        good, data = cv2.imencode(suffix, result.draw(frame.image))
        try:
            if not good:
                raise OSError("OpenCV cannot encode it")
            (self.folder / name).write_bytes(data.tobytes())
        except OSError as error:
            raise OutputError(f"Cannot write {self.folder / name}: {error}.", hint="Is the disk full?") from error
