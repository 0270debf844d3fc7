"""How an artifact gets its name: made aside, complete, and put in place in one step."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convkit.artifact._directory import MANIFEST, SCHEMA_VERSION, Artifact, anchored, check_manifest, seal_of
from convkit.errors import Interrupted, OutputError, unwritten
from convkit.files import clear_leftovers, move_into_place, scratch_beside, sha256, sync, sync_tree

__all__ = ["check_destination", "publish", "staging"]

_ELSEWHERE = "Give an --output in a folder that you may write to."


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written later, and clear away what killed conversions left behind.

    Raises:
        OutputError: something is there already, or the folder cannot be written.
    """
    try:
        clear_leftovers(anchored(path))
        _check_replaceable(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(path):
            pass
    except OSError as error:
        raise unwritten(path, error, _ELSEWHERE) from error


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield a folder that is removed again unless `publish` gave it a name beside or at ``path``.

    Raises:
        OutputError, EnvironmentProblem: the disk refuses.
        Interrupted: instead of a KeyboardInterrupt that came when the folder had its name already.
    """
    path = anchored(path)
    try:
        with scratch_beside(path) as scratch:
            folder = scratch / "new"
            folder.mkdir()
            folder.chmod(0o755)
            identity = folder.stat()
            try:
                yield folder
            except KeyboardInterrupt as error:
                if name := _named(path.parent, identity):
                    raise Interrupted(f"{name} was written") from error
                raise
    except OSError as error:
        raise unwritten(path, error, _ELSEWHERE) from error


def publish(folder: Path, path: Path, manifest: Mapping[str, Any], *, overwrite: bool) -> Artifact:
    """Seal ``folder`` with its manifest and rename it to ``path``, in one step for any onlooker.

    The manifest is written last, after every other file has reached the disk. The artifact that is replaced may be
    the working directory: a relative ``path`` means what it meant before, and the result then has an absolute one. Of a
    link the link is replaced; what it leads to stays.

    Raises:
        IntegrityError: `Artifact.open` would refuse the manifest.
        OutputError: something appeared at ``path`` meanwhile that is not to be overwritten.
        OSError: the disk refuses; what was at ``path`` is there.
    """
    folder, path, given = anchored(folder), anchored(path), path
    files = {
        str(file.relative_to(folder).as_posix()): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **manifest, "files": files}
    document["seal"] = seal_of(document)
    check_manifest(document)
    sync_tree(folder)
    (folder / MANIFEST).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)
    if overwrite:
        _check_replaceable(path, overwrite=True)
    try:
        move_into_place(folder, path, replace=overwrite)
    except FileExistsError as error:
        raise OutputError(
            f"{given} appeared while the conversion ran.", hint="Give another --output or --overwrite."
        ) from error
    with contextlib.suppress(OSError):  # it has its name, on the disk a little later
        sync(path.parent)
    return Artifact(given if given.exists() else path, document)


def _check_replaceable(path: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise OutputError(
            f"{path} exists already.", hint="Give another --output, or --overwrite to replace an artifact."
        )
    if not _is_artifact(path):
        raise OutputError(
            f"{path} is not an artifact, so it is not overwritten.", hint="Give another --output or remove it."
        )


def _is_artifact(path: Path) -> bool:
    """Tell whether ``path`` is an artifact, be it one that was edited or is of another schema."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "files", "seal"} <= manifest.keys()


def _named(folder: Path, identity: os.stat_result) -> str:
    """Return the name that a folder has in another one; empty if it has none there."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False) and os.path.samestat(entry.stat(follow_symlinks=False), identity):
                return entry.name
    return ""
