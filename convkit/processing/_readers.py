"""Readers of raw inputs from files: the contract, arrays in ``.npz`` files, JSON documents."""

from __future__ import annotations

import glob
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from convkit._documents import parse_json
from convkit._text import read_text
from convkit.errors import InputError
from convkit.processing._array_files import read_arrays

__all__ = ["ArrayReader", "Frame", "JsonReader", "Reader"]


Note = Callable[[str], object]
"""Called with a sentence that people should read."""

Bad = Callable[[Path, InputError], object]
"""Called with a file that cannot be read, and why; the files after it are read."""

_OF_SYSTEMS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", "@eadir", "__macosx"})
"""What systems leave in folders of people's files."""


def ignore(text: str) -> None:
    """Say nothing."""
    del text


@dataclass(frozen=True)
class Frame:
    """One raw input to process: where it comes from, a file name for its results, and the input itself.

    ``rate`` is that of the video which it is an image of, in images a second; 0 where it is none, or not known.
    """

    source: str
    name: str
    raw: Any
    rate: float = 0.0


def check_file(path: Path, noun: str, error: type[InputError] = InputError) -> None:
    """Check that a path is a file.

    Raises:
        InputError: it is missing, or a folder or something else; of the class ``error``.
    """
    try:
        if path.is_file():
            return
        what, hint = f"There is no {noun} {path}.", "Check the path."
        if path.is_dir():
            what, hint = f"{path} is a folder, not a file.", f"Give a file, or `convkit run` the folder of {noun}s."
        elif path.exists():
            what, hint = f"{path} is not a regular file.", "Give a file."
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.", hint="Check the path.") from problem
    raise error(what, hint=hint)


def read_bytes(path: Path, noun: str, error: type[InputError] = InputError) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: it cannot be read; of the class ``error``.
    """
    check_file(path, noun, error)
    try:
        return path.read_bytes()
    except OSError as problem:
        raise error(
            f"{path} cannot be read: {problem.strerror}.", hint="Check its permissions and the disk it is on."
        ) from problem


class Reader(ABC):
    """Reads raw inputs from files, and writes them without loss, for golden samples.

    ``noun`` is what people call one of them (``image``), ``suffixes`` those of the files in a folder that are read,
    ``companions`` names of what may belong to each of them, such as the calibration of a camera; see `join`.
    """

    noun: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    companions: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Return the raw input in a file.

        Raises:
            InputError: the file is missing or is no such input.
        """

    @abstractmethod
    def write(self, raw: Any, path: Path) -> Path:
        """Write a raw input so that `read` returns an equal one; return the file: ``path`` with a suffix."""

    def accept(self, value: Any) -> Any:
        """Return what a caller gave as a raw input: the content of a file for a path, anything else unchanged."""
        return self.read(Path(value)) if isinstance(value, str | Path) else value

    def join(self, raw: Any, companions: Mapping[str, Any]) -> Any:
        """Return a raw input together with what belongs to it, by name: the path of a file, or a value from a list.

        Raises:
            InputError: something is not what it should be.
        """
        raise InputError(f"Nothing belongs to a {self.noun} here: {', '.join(companions)}.", hint="Leave it out.")

    def is_single(self, value: Any) -> bool:
        """Return whether a value is one raw input rather than a list of them."""
        return not isinstance(value, list | tuple)

    def find(self, folder: Path) -> list[Path]:
        """Return the files directly in ``folder`` that this reader reads, sorted by name.

        Raises:
            InputError: there is no such folder, or no such file in it.
        """
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}.", hint=f"Give a folder that contains {self.noun}s.")
        # Names that begin with a dot are hidden; macOS keeps attributes of a.jpg in ._a.jpg, which is no image.
        found = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in self.suffixes and not path.name.startswith(".") and path.is_file()
        )
        if not found:
            raise InputError(
                f"{folder} holds no {self.noun}s.", hint=f"Known file types are {', '.join(sorted(self.suffixes))}."
            )
        return found

    def files(self, paths: Sequence[Path | str]) -> Iterator[Path]:
        """Yield the files that `frames` reads, in its order; folders are listed, nothing is opened.

        A path with ``*``, ``?`` or ``[`` that does not exist is a pattern, in which ``**`` stands for any folders.
        Files of systems, such as ``Thumbs.db``, that are among several paths are left out: a ``*`` names them.

        Raises:
            InputError: a folder contains none, or a pattern matches nothing.
        """
        found = [match for path in paths for match in _matches(path)]
        for path in found:
            if len(found) > 1 and (path.name.lower() in _OF_SYSTEMS or path.name.startswith("._")):
                continue
            yield from self.find(path) if path.is_dir() else [path]

    def frames(self, paths: Sequence[Path | str], *, note: Note = ignore, bad: Bad | None = None) -> Iterator[Frame]:
        """Yield every raw input of the given files, folders and patterns, one at a time.

        ``note`` is called with warnings. ``bad`` is called with each file that cannot be read, and why, instead of the
        error.

        Raises:
            InputError: a path is neither or cannot be read.
        """
        del note
        for file in self.files(paths):
            with self.bad_file(file, bad):
                yield Frame(str(file), self.result_name(file), self.read(file))

    @contextmanager
    def bad_file(self, file: Path, bad: Bad | None) -> Iterator[None]:
        """Call ``bad``, if there is one, with an `InputError` of the block, which ends the block."""
        try:
            yield
        except InputError as error:
            if bad is None:
                raise
            bad(file, error)

    def result_name(self, file: Path, index: int = 0) -> str:
        """Return the file name for the results of the raw input ``index`` in a file."""
        del index
        return file.name


def _matches(path: Path | str) -> list[Path]:
    """Return what a pattern matches, sorted; any other path as it is.

    Raises:
        InputError: the pattern matches nothing.
    """
    text = str(path)
    if not glob.has_magic(text) or os.path.lexists(text):
        return [Path(path)]
    found = sorted(map(Path, glob.glob(text, recursive=True)))  # noqa: PTH207 - any path, absolute or not
    if not found:
        raise InputError(f"Nothing matches {text}.", hint="Check the pattern, and the folder that it begins in.")
    return found


class ArrayReader(Reader):
    """Named arrays (a dict) in ``.npz`` files; pickled objects are refused."""

    noun = "array file"
    suffixes = frozenset({".npz"})

    def read(self, path: Path) -> dict[str, np.ndarray]:
        """Return the arrays of a file by name."""
        check_file(path, "file")
        try:
            return read_arrays(path)
        except OSError as error:
            raise InputError(
                f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions."
            ) from error
        except ValueError as error:
            raise InputError(
                f"{path} is not a readable .npz file: {str(error).splitlines()[0]}",
                hint="Write it with numpy.savez, without objects.",
            ) from error

    def write(self, raw: dict[str, np.ndarray], path: Path) -> Path:
        """Write an ``.npz`` file."""
        file = path.with_suffix(".npz")
        with file.open("wb") as stream:
            np.savez_compressed(stream, **raw)  # type: ignore[arg-type]
        return file


class JsonReader(Reader):
    """JSON documents, such as texts with their settings."""

    noun = "JSON file"
    suffixes = frozenset({".json"})

    def read(self, path: Path) -> Any:
        """Return the document of a file."""
        try:
            return parse_json(read_text(path).encode())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.", hint="Check the path.") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON: {error}", hint="Write one JSON document a file.") from error

    def write(self, raw: Any, path: Path) -> Path:
        """Write a ``.json`` file."""
        file = path.with_suffix(".json")
        file.write_text(json.dumps(raw, ensure_ascii=False) + "\n", encoding="utf-8")
        return file

    def accept(self, value: Any) -> Any:
        """Return the document of a path that ends in ``.json``; a text is a raw input itself."""
        return self.read(Path(value)) if str(value).endswith(".json") and not isinstance(value, dict) else value
