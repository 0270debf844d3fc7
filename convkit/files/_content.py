"""SHA-256 hashes, and writing that never leaves a part of a file."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import stat
import sys
import tempfile
from pathlib import Path

from convkit.files._scratch import keep_locked, taken_over
from convkit.files._sync import sync

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


def write_atomic(path: Path, content: bytes | str, *, durable: bool = False) -> None:
    """Write a file (a text in UTF-8), replacing an existing one; its folder is made where it is missing.

    The file gets its name when it is complete: other processes see the old content or the new one. With ``durable``
    that is so after a power cut too, and what a killed process left of such a write is removed.

    Raises:
        OSError: the folder or the file cannot be written, or it is a device or pipe, which would be replaced by a file;
            nothing is left behind.
    """
    data = content.encode() if isinstance(content, str) else content
    if _special(path):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:16]}."
    if durable:
        _clear(path.parent, prefix)
    locked = durable and sys.platform != "win32"  # where no open file can be renamed
    handle, temporary = _temporary(path.parent, prefix, locked=locked)
    with contextlib.ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
            if locked:
                temporary.replace(path)
        if not locked:
            temporary.replace(path)
        undo.pop_all()
    if durable:
        with contextlib.suppress(OSError):  # the file is there, and on the disk a little later
            sync(path.parent)


def _special(path: Path) -> bool:
    """Return whether a path is a device, a pipe, or a link to what a process has open, as ``/dev/stdout`` is."""
    try:
        if path.is_symlink() and str(path.readlink()).startswith("/proc/"):
            return True
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _temporary(folder: Path, prefix: str, *, locked: bool) -> tuple[int, Path]:
    """Return a new file, open for writing."""
    while True:
        handle, name = tempfile.mkstemp(dir=folder, prefix=prefix)
        if not locked or keep_locked(handle, Path(name)):
            return handle, Path(name)
        os.close(handle)


def _clear(folder: Path, prefix: str) -> None:
    """Remove the files of killed writes; that of a running one is locked."""
    for file in folder.glob(f"{glob.escape(prefix)}*"):
        if re.fullmatch(re.escape(prefix) + r"[a-z0-9_]{8}", file.name) and file.is_file():
            with taken_over(file) as mine:
                if mine:
                    file.unlink(missing_ok=True)
