"""The engines of an artifact: ``engines/NAME/`` with the plan, its description and its verdict, whole or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convkit._documents import inner_file, read_document
from convkit.artifact._directory import WRITABLE, Artifact, anchored, unreadable
from convkit.artifact._unlisted import refuse_unlisted_in_folder
from convkit.errors import IntegrityError, unwritten
from convkit.files import clear_leftovers, move_into_place, scratch_beside, sha256, sync, sync_tree, write_atomic

__all__ = ["ENGINES", "StagedEngine", "StoredEngine", "engine_staging", "stored_engines"]

ENGINES = "engines"
DESCRIPTION = "engine.json"
VERDICT = "verdict.json"


@dataclass(frozen=True)
class StoredEngine:
    """An engine in an artifact: its folder, the parsed ``engine.json`` and the ladder of ``verdict.json``."""

    folder: Path
    description: Mapping[str, Any] = field(repr=False)
    ladder: Mapping[str, Any] = field(repr=False)

    @property
    def plan(self) -> Path:
        """The file that the backend loads."""
        return self.folder / str(self.description["plan"])

    def record(self, ladder: Mapping[str, Any]) -> StoredEngine:
        """Write another ladder into ``verdict.json`` and return the engine with it.

        Raises:
            OutputError, EnvironmentProblem: the disk refuses.
        """
        try:
            text = json.dumps({"ladder": ladder}, indent=2, ensure_ascii=False) + "\n"
            write_atomic(self.folder / VERDICT, text, durable=True)
        except OSError as error:
            raise unwritten(self.folder / VERDICT, error, WRITABLE) from error
        return replace(self, ladder=ladder)

    def summary(self) -> dict[str, Any]:
        """Return backend, version, targets, files, and the command of the backend's own tool (empty if there is none).

        Also, by name, the types of inputs and outputs that are not those of the artifact. That is the description
        without options, layers and rewrites.
        """
        known = {key: self.description[key] for key in ("backend", "version", "targets", "files")}
        return {**known, "command": self.description.get("command", ""), "io": dict(self.description.get("io", {}))}

    def verify(self, artifact: Artifact) -> None:
        """Compare every file with its hash, and the graph that the engine was built from with the artifact's.

        Raises:
            IntegrityError: a file is missing, another one or not listed, or the engine belongs to another graph.
        """
        with unreadable(self.folder, "Build it again: convkit build."):
            refuse_unlisted_in_folder(self.folder, {*self.description["files"], DESCRIPTION, VERDICT})
        for name, entry in self.description["files"].items():
            file = self.folder / name
            if not file.is_file() or file.is_symlink() or sha256(file) != entry["sha256"]:
                raise IntegrityError(f"{file} is not the file that was built.", hint="Build it again: convkit build.")
        if self.description["artifact"]["model.onnx"] != artifact.manifest["files"]["model.onnx"]["sha256"]:
            raise IntegrityError(
                f"{self.folder} was built from another graph than {artifact.model}.",
                hint="Build it again: convkit build.",
            )


def stored_engines(artifact: Artifact) -> dict[str, StoredEngine]:
    """Return the engines of an artifact by name.

    Raises:
        IntegrityError: a description cannot be read.
    """
    from convkit.artifact._schema import EngineDocument, EngineVerdict

    found = {}
    for folder in sorted((artifact.path / ENGINES).glob("*")):
        if folder.name.startswith(".") or folder.name.endswith(".rejected") or not (folder / DESCRIPTION).is_file():
            continue
        with unreadable(folder, "Build it again: convkit build."):
            description = read_document(folder / DESCRIPTION, EngineDocument)
            for name in (description["plan"], *description["files"]):
                _plain_name(name)
            ladder = read_document(folder / VERDICT, EngineVerdict)["ladder"]
            description["files"][description["plan"]]
        found[folder.name] = StoredEngine(folder, description, ladder)
    return found


def _plain_name(name: str) -> str:
    """Return the name of a file directly in the engine's folder; raise ValueError for another one."""
    if "/" in inner_file(name):
        raise ValueError(f"{name[:80]!r} is no name of a file")
    return name


@dataclass(frozen=True)
class StagedEngine:
    """The ``folder`` in which an engine is built; `publish` gives it its name, ``target``."""

    folder: Path
    target: Path

    def publish(self, *, rejected: bool = False) -> Path:
        """Rename the folder to the engine's name, or ``<name>.rejected``, in place of what is there; return it."""
        final = self.target.with_name(f"{self.target.name}.rejected") if rejected else self.target
        sync_tree(self.folder)
        move_into_place(self.folder, final, replace=True)
        with suppress(OSError):  # it has its name, on the disk a little later
            sync(final.parent)
        return final


@contextmanager
def engine_staging(artifact: Path, name: str) -> Iterator[StagedEngine]:
    """Yield a folder beside ``engines/<name>`` that is removed unless it is published.

    Raises:
        OutputError, EnvironmentProblem: the disk refuses.
    """
    target = anchored(artifact) / ENGINES / name
    try:
        target.parent.mkdir(exist_ok=True)
        clear_leftovers(target)
        with scratch_beside(target) as scratch:
            folder = scratch / "new"
            folder.mkdir()
            folder.chmod(0o755)
            yield StagedEngine(folder, target)
    except OSError as error:
        raise unwritten(target, error, WRITABLE) from error
    finally:
        with suppress(OSError):  # of a folder with engines
            target.parent.rmdir()
