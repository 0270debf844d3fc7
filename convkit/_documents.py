"""Documents that somebody else may have written: parsed within bounds, checked against a schema, and only then used."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["MOST_BYTES", "checked", "inner_file", "parse_json", "parse_json_as", "read_bounded", "read_document"]

T = TypeVar("T")

MOST_BYTES = 64 << 20
"""Size of the largest JSON document that is read; the largest that convkit writes have some megabytes."""
MOST_DEPTH = 64
"""How deep lists and objects may be in each other."""


def read_document(path: Path, kind: type[T] | Any) -> Any:
    """Return the JSON document of a file as plain dicts and lists, after it was checked against a schema.

    ``kind`` is a type that msgspec knows, such as a `msgspec.Struct`; what the schema does not name stays as it is.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such document; the text says which field is wrong.
    """
    document = parse_json(read_bounded(path))
    checked(document, kind)
    return document


def read_bounded(path: Path, most: int = MOST_BYTES, *, pipes: bool = False) -> bytes:
    """Return the content of a regular file, with ``pipes`` also what somebody is writing into a pipe.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than ``most`` bytes, or no such file.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # of a pipe, which nobody may write to
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(stream.fileno())
        if pipes and stat.S_ISFIFO(status.st_mode):
            os.set_blocking(stream.fileno(), True)
        elif not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        data = stream.read(most + 1) if status.st_size <= most else b""
    if max(len(data), status.st_size) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: it is no JSON, contains numbers or texts that JSON does not know, or is nested too deeply.
    """
    import msgspec

    try:
        value = msgspec.json.decode(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _deep(value):
        raise ValueError("it is nested too deeply")
    return value


def parse_json_as(text: str | bytes, kind: type[T]) -> T:
    """Return a JSON text as a value of a type that msgspec knows; what the type does not name takes no memory.

    Raises:
        ValueError: it does not fit; the text says which field is wrong.
    """
    import msgspec

    try:
        return msgspec.json.decode(text, type=kind)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def checked(document: Any, kind: type[T] | Any) -> Any:
    """Return a document of plain dicts and lists as a value of a type that msgspec knows.

    Raises:
        ValueError: it does not fit; the text says which field is wrong.
    """
    import msgspec

    return msgspec.convert(document, kind, strict=True)


def inner_file(name: str) -> str:
    """Return the name of a file inside a folder, with ``/`` between folders.

    Raises:
        ValueError: it is absolute, or leads out of the folder, or is no name that every system takes.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts) or any(
        ord(character) < 32 or character in "\\:\x7f" for character in name
    ):
        raise ValueError(f"{name[:80]!r} is no name of a file inside")
    return name


def _deep(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return (each for each in value.values() if isinstance(each, dict | list))
    return (each for each in value if isinstance(each, dict | list)) if isinstance(value, list) else ()
