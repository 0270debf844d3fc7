"""Files of results in a folder: a name for each, and nothing there is overwritten that was not written by `run`."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self

    from convkit.errors import ConvkitError
    from convkit.processing import Reader
    from convkit.results import Result

__all__ = ["WRITTEN_HERE", "ArrayFiles", "DrawingFiles", "KittiFiles", "check_target", "identities"]

WRITTEN_HERE = b"written by convkit run"
"""Stands in every file that is written here, so that a later run may replace it."""


class _Files:
    """Names files in a folder and writes them while it is entered; a name that comes twice gets a number.

    What a killed process was writing goes away when the folder is used again.

    Raises:
        OutputError: the folder cannot be made, or a file would overwrite an input, by whatever path or link, or another
            file that was not written here. As far as the names are known, that is found before anything is run.
    """

    option = what = ""
    suffixes: tuple[str, ...] = ()
    """The first is that of a file whose name has none of them."""

    def __init__(self, folder: Path, sources: list[str], reader: Reader) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._error(folder, error) from error
        self.folder = folder
        files = list(reader.files(sources))
        self._inputs = identities(files)
        self._used: set[str] = set()
        for file in files:
            self._target(reader.result_name(file))
        self._used.clear()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        from convkit.files import clear_leftovers, scratch_beside

        try:
            clear_leftovers(self.folder / self.what)
            self._scratch = self._stack.enter_context(scratch_beside(self.folder / self.what))
        except OSError as error:
            raise self._error(self.folder, error) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _target(self, source: str) -> Path:
        """Return the file for the results of an input of that name."""
        stem, suffix = Path(source).stem, Path(source).suffix.lower()
        suffix = suffix if suffix in self.suffixes else self.suffixes[0]
        name, number = f"{stem}{suffix}", 1
        while name.casefold() in self._used:  # names that differ in case only are one file on some disks
            number += 1
            name = f"{stem}-{number}{suffix}"
        self._used.add(name.casefold())
        target = self.folder / name
        check_target(
            target,
            f"{self.what} of {source}",
            self._inputs,
            f"Give a {self.option} folder of its own, for example {self.option} {self.what}s.",
        )
        return target

    def _write(self, target: Path, data: bytes) -> None:
        temporary = self._scratch / "file"
        try:
            # Renamed into place, a file replaces a link instead of the file that the link leads to.
            temporary.write_bytes(data)
            temporary.replace(target)
        except OSError as error:
            raise self._error(target, error) from error

    def _error(self, target: Path, error: OSError) -> ConvkitError:
        from convkit.errors import unwritten

        return unwritten(target, error, f"Give another {self.option} folder.")


class DrawingFiles(_Files):
    """Drawings, as PNG or JPEG."""

    option, what = "--draw", "drawing"
    suffixes = (".png", ".jpg", ".jpeg")

    def write(self, source: str, image: np.ndarray) -> None:
        """Write the drawing (uint8, H x W x 3, BGR) of an input of that name."""
        import cv2

        from convkit.errors import OutputError

        target = self._target(source)
        good, data = cv2.imencode(target.suffix, image)
        if not good:
            raise OutputError(f"Cannot write {target}: OpenCV cannot encode it.", hint="Is the image too large?")
        self._write(target, _marked(data.tobytes()))


class ArrayFiles(_Files):
    """Outputs, as ``.npz`` files."""

    option, what = "--npz", "output"
    suffixes = (".npz",)

    def write(self, source: str, outputs: dict[str, np.ndarray]) -> None:
        """Write the outputs of an input of that name."""
        import numpy as np

        stream: Any = io.BytesIO()
        np.savez(stream, **outputs)  # type: ignore[arg-type]
        with zipfile.ZipFile(stream, "a") as archive:
            archive.comment = WRITTEN_HERE
        self._write(self._target(source), stream.getvalue())


class KittiFiles(_Files):
    """Boxes in space, as the result files of KITTI; these have no place for a mark, so that none is ever replaced."""

    option, what = "--kitti", "result"
    suffixes = (".txt",)

    def write(self, source: str, result: Result) -> None:
        """Write the boxes of an input of that name; the file is empty where there are none.

        Raises:
            SettingError: the result has no boxes in space.
        """
        from convkit.errors import SettingError
        from convkit.results import Boxes3D

        if not isinstance(result, Boxes3D):
            raise SettingError(
                f"Results of the kind {type(result).__name__} have no boxes in space.",
                hint="Leave --kitti out; --json prints the results.",
            )
        self._write(self._target(source), result.to_kitti().encode())


def identities(files: Iterable[Path]) -> set[tuple[int, int]]:
    """Return what identifies those of the files that exist."""
    return set(filter(None, map(_identity, files)))


def check_target(target: Path, what: str, inputs: set[tuple[int, int]], hint: str) -> None:
    """Check that a file may be written: ``what``, such as ``drawing of a.jpg``, while files ``inputs`` are read.

    Raises:
        OutputError: it would overwrite an input, by whatever path or link, or another file that was not written here.
    """
    from convkit.errors import OutputError

    identity = _identity(target)
    kind = "an input" if identity in inputs and identity else ""
    if not kind and identity and not target.is_symlink() and not _written_here(target):
        kind = f"a file that is no {what.partition(' ')[0]} of convkit"
    if kind:
        raise OutputError(f"The {what} would overwrite {target}, {kind}.", hint=hint)


def _marked(data: bytes) -> bytes:
    """Return a PNG or JPEG with the mark as a comment."""
    if data.startswith(b"\xff\xd8"):
        return data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(WRITTEN_HERE)) + WRITTEN_HERE + data[2:]
    text = b"tEXtComment\0" + WRITTEN_HERE
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return data[:33] + chunk + data[33:]  # behind the signature and the header


def _written_here(file: Path) -> bool:
    try:
        if not file.is_file():  # a pipe, which nobody may write to
            return False
        with file.open("rb") as stream:
            head = stream.read(128)
            stream.seek(-min(128, os.fstat(stream.fileno()).st_size), os.SEEK_END)
            return WRITTEN_HERE in head or WRITTEN_HERE in stream.read()
    except OSError:
        return False


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what identifies a file or folder by all its paths and links; None where nothing is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
