"""A folder of compiled kernels, shared by processes: for each key the code as it is, and a JSON description."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convkit._documents import parse_json
from convkit.files import sha256, write_atomic

__all__ = ["FORMAT", "cache_folder", "cache_key", "read_entry", "write_entry"]

FORMAT = "convkit kernel 3"
"""Version of the files and of what a key depends on."""


def cache_folder() -> Path:
    """Return the folder of compiled kernels: ``$CONVKIT_CACHE``, or a folder in the user's cache directory."""
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
    return sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True))


def read_entry(key: str, kind: str) -> tuple[dict[str, Any], bytes] | None:
    """Return description and code of an entry; None where it is missing or damaged."""
    try:
        code_file, description_file = _files(key, kind)
        description = parse_json(description_file.read_bytes())
        code = code_file.read_bytes()
    except (OSError, RuntimeError, ValueError):
        return None
    if not isinstance(description, dict) or description.pop("sha256", None) != sha256(code):
        return None
    return description, code


def write_entry(key: str, kind: str, description: Mapping[str, Any], code: bytes) -> None:
    """Write an entry: ``KEY.KIND`` is the code itself, readable by cuobjdump; ``KEY.json`` the description.

    Where the folder cannot be written, nothing is written and no error is raised: the next process compiles again.
    """
    with contextlib.suppress(OSError, RuntimeError):
        code_file, description_file = _files(key, kind)
        write_atomic(code_file, code)
        write_atomic(description_file, json.dumps({**description, "sha256": sha256(code)}))


def _files(key: str, kind: str) -> tuple[Path, Path]:
    folder = cache_folder()
    return folder / f"{key}.{kind}", folder / f"{key}.json"
