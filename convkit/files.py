"""Files: SHA-256 hashes, and writing that never leaves a part of a file."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["sha256", "write_atomic"]

_CHUNK = 1 << 20


def sha256(content: Path | bytes | str) -> str:
    """Return the SHA-256 of a file, of bytes or of a text in UTF-8, in hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file (a text in UTF-8), replacing an existing one; its folder is made where it is missing.

    The file gets its name when it is complete: other processes see the old content or the new one.

    Raises:
        OSError: the folder or the file cannot be written; nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:16]}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
