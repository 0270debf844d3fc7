"""A folder of compiled kernels: what was compiled once is read again, by any process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["FORMAT", "cache_folder", "cache_key", "read_entry", "write_entry"]

FORMAT = "convkit kernel 2"
"""Version of the entries' layout and of what goes into a key."""


def cache_folder() -> Path:
    """Return the folder of compiled kernels: ``$CONVKIT_CACHE``, or a folder for the user's caches."""
    given = os.environ.get("CONVKIT_CACHE")
    if given:
        return Path(given)
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser())
    elif sys.platform == "darwin":
        root = Path("~/Library/Caches").expanduser()
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return root / "convkit" / "kernels"


def cache_key(**parts: Any) -> str:
    """Return the SHA-256 over everything that a compiled kernel depends on; ``parts`` are JSON values."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_entry(key: str) -> tuple[Mapping[str, Any], bytes] | None:
    """Return the description and the code of an entry; None if there is none, or none that is whole."""
    try:
        data = (cache_folder() / key).read_bytes()
    except (OSError, RuntimeError):
        return None
    head, _, body = data.partition(b"\n")
    if head.decode(errors="replace") != f"{FORMAT} {hashlib.sha256(body).hexdigest()}":
        return None
    description, _, code = body.partition(b"\n")
    return dict(json.loads(description)), code


def write_entry(key: str, description: Mapping[str, Any], code: bytes) -> None:
    """Keep an entry; where the folder cannot be written, nothing is kept and nothing is said.

    The file gets its name when it is complete, so that no other process reads a part of it.
    """
    body = json.dumps(description).encode() + b"\n" + code
    data = f"{FORMAT} {hashlib.sha256(body).hexdigest()}\n".encode() + body
    with contextlib.suppress(OSError, RuntimeError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{key[:16]}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(name).replace(folder / key)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
