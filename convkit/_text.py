"""Text files as people's editors save them: UTF-8, or what a byte-order mark says."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from convkit._documents import MOST_BYTES, read_bounded

__all__ = ["marked_encoding", "printable", "read_text"]

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, *, most: int = MOST_BYTES) -> str:
    """Return the text of a file, without its byte-order mark: UTF-8, or UTF-16 or UTF-32 if the mark says so.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has more than ``most`` bytes, is a device, or its bytes are no such text.
    """
    data = read_bounded(path, most, pipes=True)
    return data.decode(marked_encoding(data) or "utf-8").replace("\r\n", "\n")


def marked_encoding(data: bytes) -> str:
    """Return the encoding that the byte-order mark at the start of a text says; empty without one."""
    return next((encoding for mark, encoding in MARKS if data.startswith(mark)), "")


def printable(name: str) -> str:
    """Return a file name for reports and manifests: bytes in it that are not UTF-8 become ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
