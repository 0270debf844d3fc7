"""What the manifest says of the weights that an artifact was made from, and whether other ones are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from convkit._text import printable
from convkit.errors import listing
from convkit.files import sha256

__all__ = ["weights_difference", "weights_record"]


def weights_record(path: Path) -> dict[str, Any]:
    """Return name, size and hash of the weights; a folder is recorded by its files."""
    if path.is_file():
        return {"file": printable(path.name), "bytes": path.stat().st_size, "sha256": sha256(path)}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {
        "file": printable(path.name),
        "bytes": sum(file.stat().st_size for file in files),
        "files": {printable(file.relative_to(path).as_posix()): sha256(file) for file in files},
    }


def weights_difference(path: Path, record: Mapping[str, Any]) -> str:
    """Return how weights differ from those of a `weights_record`; empty where they are the same, whatever their name.

    Of folders every file counts, but for hidden ones, which nobody takes for weights.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.exists():
        return "it does not exist"
    if path.is_dir() != ("files" in record):
        return "that was a file" if path.is_dir() else "that was a folder"
    if not path.is_dir():
        return "" if path.is_file() and sha256(path) == record["sha256"] else "its content is another"
    have, had = (dict(_shown(files)) for files in (weights_record(path)["files"], record["files"]))
    parts = {
        "lacks": [name for name in had if name not in have],
        "has besides": [name for name in have if name not in had],
        "has another": [name for name in had if name in have and have[name] != had[name]],
    }
    return "; ".join(f"it {what} {listing(names)}" for what, names in parts.items() if names)


def _shown(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, digest in files.items():
        if not any(part.startswith(".") for part in PurePosixPath(name).parts):
            yield name, digest
