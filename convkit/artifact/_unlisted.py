"""Files in an artifact that would be taken for its parts, or read with them, though no hash is kept of them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from convkit.errors import IntegrityError

__all__ = ["refuse_unlisted", "refuse_unlisted_in_folder", "refuse_unlisted_weights"]

PARTS = ("model.onnx", "exported.onnx", "report.html")
"""Names at the top of an artifact, also with something behind them: ``model.onnx.data`` has weights of the graph."""
FOLDERS = ("kernels", "proof")
RECORDS = "proof/backends"
"""Proofs after the conversion, each with a seal of its own."""
_LOCATION = b"\x0a\x08location"
"""How a tensor in a file of its own names that file, as protobuf writes it."""


def refuse_unlisted(root: Path, listed: Collection[str]) -> None:
    """Refuse an artifact that has more in its parts than its manifest lists; files beside them are nobody's business.

    Raises:
        IntegrityError: a file, link or pipe among the parts is not listed; the text names it.
        OSError: a folder cannot be read.
    """
    folders = {*FOLDERS, *(name.partition("/")[0] for name in listed if "/" in name)}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if entry.name in ("engines", "manifest.json") and entry.is_symlink():
            _refuse(root / entry.name, root / "manifest.json")
        if entry.name in folders and (entry.is_symlink() or not entry.is_dir()):
            _refuse(root / entry.name, root / "manifest.json")
        if entry.name in folders:
            for name in _names(root, entry.name):
                if name not in listed and not _is_record(root, name):
                    _refuse(root / name, root / "manifest.json")
        elif entry.name.startswith(PARTS) and entry.name not in listed:
            _refuse(root / entry.name, root / "manifest.json")


def refuse_unlisted_in_folder(folder: Path, listed: Collection[str]) -> None:
    """Refuse a folder, that of an engine, that is a link or contains a file or link that is not listed.

    Raises:
        IntegrityError: it is, or does; the text names what.
        OSError: it cannot be read.
    """
    if folder.is_symlink():
        _refuse(folder, folder / "engine.json")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name not in listed and not entry.name.startswith(".") and not entry.is_dir(follow_symlinks=False):
            _refuse(folder / entry.name, folder / "engine.json")


def refuse_unlisted_weights(root: Path, name: str, listed: Collection[str]) -> None:
    """Refuse a graph whose weights are in a file that the manifest does not list: whoever loads it loads that file.

    Raises:
        IntegrityError: it has such weights, or cannot be read though it seems to.
        OSError: the file cannot be read.
    """
    if not _mentions(root / name, _LOCATION):
        return  # without parsing a graph of any size
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(str(root / name), format="protobuf", load_external_data=False)
        for location in _locations(graph):
            if location not in listed:
                raise IntegrityError(
                    f"{root / name} has weights in {location[:200]!r}, which the manifest does not list.",
                    hint="Restore the artifact or convert again.",
                )
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{root / name} is no ONNX file.", hint="Convert again.") from error


def _mentions(file: Path, what: bytes) -> bool:
    with file.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(what) >= 0


def _locations(message: Any) -> Iterator[str]:
    """Yield the names of the files that tensors of a message are in, at any depth."""
    waiting = [message]
    while waiting:
        each = waiting.pop()
        if each.DESCRIPTOR.name == "TensorProto":
            yield from (entry.value for entry in each.external_data if entry.key == "location")
            continue
        for field, value in each.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if not field.is_repeated else value)


def _names(root: Path, folder: str) -> Iterator[str]:
    """Yield what is below a folder, but for folders, links to which are named and not followed."""
    for entry in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
        name = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _names(root, name)
        else:
            yield name


def _is_record(root: Path, name: str) -> bool:
    """Return whether a file is a record, or what a killed write left of one."""
    folder, _, plain = name.rpartition("/")
    return folder == RECORDS and plain.startswith(".") | plain.endswith(".json") and not (root / name).is_symlink()


def _refuse(file: Path, listing: Path) -> None:
    if file.is_symlink():
        raise IntegrityError(f"{file} is a link, or in a linked folder.", hint="Put the file itself there.")
    raise IntegrityError(
        f"{listing} does not list {file.relative_to(listing.parent).as_posix()}, which is in the place of its files.",
        hint="Move that file out of the artifact, or restore the artifact.",
    )
