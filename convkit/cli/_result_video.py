"""The drawn results as a video, complete under its name or not there."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.cli._result_files import WRITTEN_HERE, check_target, identities

if TYPE_CHECKING:
    import numpy as np

    from convkit.errors import ConvkitError
    from convkit.processing import Reader

__all__ = ["CODECS", "VideoFile"]

CODECS = {".avi": "MJPG", ".mov": "mp4v", ".mp4": "mp4v"}
"""What OpenCV's wheels can write into a container of that suffix: Motion JPEG and MPEG-4 Part 2."""
MORE = 1 << 20
"""Bytes that a disk with room takes besides an image: what a video has at its end is less."""
EVERY = 25
"""Images after which room is looked for anew: what other files take meanwhile counts, too."""
RATE = 25.0
"""Images a second where the inputs are no video, or it does not say."""


class VideoFile:
    """Writes drawings into a video at the rate of the first one's source; use it as a context.

    At the end of the block the video gets its name, also where the block ends with an error or Ctrl-C: what was drawn
    until then is kept. The first drawing sets the size; larger and smaller ones are scaled to fit, with black borders.

    Raises:
        OutputError: another type of file; it would overwrite an input, or a file that was not written here; there is no
            such folder; or OpenCV cannot write it, in which case nothing is left.
        EnvironmentProblem: the disk has no room for it. Where that is seen before OpenCV loses an image, the video has
            all images until then; else nothing is left.
    """

    def __init__(self, path: Path, sources: list[str], reader: Reader) -> None:
        from convkit.errors import OutputError

        if path.suffix.lower() not in CODECS:
            raise OutputError(
                f"A video {path.name} cannot be written.", hint=f"Known file types are {', '.join(sorted(CODECS))}."
            )
        if not path.parent.is_dir():
            raise OutputError(f"There is no folder {path.parent}.", hint="Make it, or give another --save-video.")
        check_target(path, "video", identities(reader.files(sources)), "Give another name to --save-video.")
        self._path = path
        self._folder: Any = None
        self._file = path
        self._writer: Any = None
        self._reserve: _Reserve | None = None
        self._size = (0, 0)
        self.count = 0
        self.scaled = False

    def write(self, image: np.ndarray, rate: float) -> None:
        """Append a drawing (uint8, H x W x 3, BGR) from a video of that many images a second, 0 where it is none."""
        if self._writer is None:
            self._open(image, rate or RATE)
        if image.shape[1::-1] != self._size:
            image, self.scaled = _fitted(image, self._size), True
        try:
            self._hold_room(image.nbytes + MORE)
        except OSError as problem:
            kept = f"; it has the first {self.count} images" if self.count else ""
            code = problem.errno or errno.ENOSPC
            raise self._unwritten(OSError(code, os.strerror(code) + kept)) from problem
        self._writer.write(image)
        self.count += 1

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if self._reserve is not None:
                self._reserve.close()
            if self._writer is not None:
                self._writer.release()
            if self.count:
                self._finish()
        finally:
            if self._folder is not None:
                self._folder.__exit__(None, None, None)

    def _open(self, image: np.ndarray, rate: float) -> None:
        import cv2

        from convkit.errors import OutputError
        from convkit.files import clear_leftovers, scratch_beside

        suffix = self._path.suffix.lower()
        try:
            clear_leftovers(self._path)
            folder = scratch_beside(self._path)
            self._file = folder.__enter__() / f"video{suffix}"
            self._folder = folder
            self._reserve = _Reserve(self._file.with_name("reserve"))
        except OSError as problem:
            raise self._unwritten(problem) from problem
        self._size = image.shape[1::-1]
        writer = cv2.VideoWriter(str(self._file), cv2.VideoWriter.fourcc(*CODECS[suffix]), rate, self._size)
        if not writer.isOpened():
            self._check_room()
            raise OutputError(
                f"Cannot write {self._path}: OpenCV cannot encode {self._size[0]} x {self._size[1]} pixels.",
                hint="Is the image too large, or too small?",
            )
        self._writer = writer

    def _hold_room(self, size: int) -> None:
        """Make sure that the video can grow by ``size`` bytes, since its writer does not say when it cannot.

        Raises:
            OSError: the disk is full, a quota used up, or the file as large as the system allows.
        """
        if shutil.disk_usage(self._file.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert self._reserve is not None
        written = self._file.stat().st_size
        if self.count % EVERY == 0 or written + size > self._reserve.end:
            self._reserve.hold(written, size + MORE)

    def _finish(self) -> None:
        """Give the video its name if it is whole: a writer of OpenCV does not say that the disk is full."""
        import cv2

        from convkit.errors import OutputError

        capture = cv2.VideoCapture(str(self._file))
        whole = capture.isOpened() and int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) == self.count
        capture.release()
        if not whole:
            self._check_room()
            raise OutputError(
                f"Cannot write {self._path}: OpenCV wrote less than it was given.", hint="Try a file of another type."
            )
        try:
            with self._file.open("ab") as stream:
                stream.write(_mark(self._file.suffix))
            self._file.replace(self._path)
        except OSError as problem:
            raise self._unwritten(problem) from problem

    def _check_room(self) -> None:
        """Write on behind what OpenCV wrote, which does not say why it could not.

        Raises:
            EnvironmentProblem: the disk is full.
        """
        try:
            with self._file.open("ab") as stream:
                stream.write(bytes(MORE))
        except OSError as problem:
            raise self._unwritten(problem) from problem

    def _unwritten(self, problem: OSError) -> ConvkitError:
        from convkit.errors import unwritten

        return unwritten(self._path, problem, "Give another --save-video file.")


class _Reserve:
    """Room for a file that grows, tried by another file: quotas count that, which the free bytes of a disk do not.

    The file can grow up to ``end`` bytes. From then on `MORE` bytes stay held for what is written at its end, whatever
    other files take, until `close`. Where the system cannot allocate room, all that is unknown.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self.end = 0

    def hold(self, start: int, size: int) -> None:
        """Make sure of ``size`` bytes from ``start`` on.

        Raises:
            OSError: there is no such room, or no file may be that large.
        """
        self._stream.truncate(0)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._stream.fileno(), start, size + MORE)
                self._stream.truncate(start + MORE)
            except OSError as problem:
                if problem.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
        self.end = start + size

    def close(self) -> None:
        """Give the room back."""
        self._stream.truncate(0)
        self._stream.close()


def _mark(suffix: str) -> bytes:
    """Return what says that a video was written here: a chunk at its end that players skip."""
    if suffix == ".avi":
        text = WRITTEN_HERE + bytes(len(WRITTEN_HERE) % 2)
        return b"JUNK" + struct.pack("<I", len(text)) + text
    return struct.pack(">I4s", 8 + len(WRITTEN_HERE), b"free") + WRITTEN_HERE


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image scaled into the middle of a black one of (width, height)."""
    import cv2
    import numpy as np

    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, round(scale * width)), max(1, round(scale * height))
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas[top : top + inner[1], left : left + inner[0]] = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    return canvas
