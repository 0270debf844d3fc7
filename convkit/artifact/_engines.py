"""The engines of an artifact: ``engines/NAME/`` with the plan, its description and its verdict, whole or absent."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convkit.artifact._directory import Artifact, is_alive, output_error
from convkit.errors import IntegrityError
from convkit.files import sha256, write_atomic

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
            write_atomic(self.folder / VERDICT, json.dumps({"ladder": ladder}, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise output_error(self.folder / VERDICT, error) from error
        return replace(self, ladder=ladder)

    def summary(self) -> dict[str, Any]:
        """Return backend, version, targets, files, and the command of the backend's own tool (empty if there is none).

        That is the description without options, layers and rewrites.
        """
        known = {key: self.description[key] for key in ("backend", "version", "targets", "files")}
        return {**known, "command": self.description.get("command", "")}

    def verify(self, artifact: Artifact) -> None:
        """Compare every file with its hash, and the graph that the engine was built from with the artifact's.

        Raises:
            IntegrityError: a file is missing or another one, or the engine belongs to another graph.
        """
        for name, entry in self.description["files"].items():
            file = self.folder / name
            if not file.is_file() or sha256(file) != entry["sha256"]:
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
    found = {}
    for folder in sorted((artifact.path / ENGINES).glob("*")):
        if folder.name.startswith(".") or folder.name.endswith(".rejected") or not (folder / DESCRIPTION).is_file():
            continue
        try:
            documents = [json.loads((folder / name).read_text(encoding="utf-8")) for name in (DESCRIPTION, VERDICT)]
            found[folder.name] = StoredEngine(folder, documents[0], documents[1]["ladder"])
            found[folder.name].summary(), found[folder.name].plan
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise IntegrityError(f"{folder} cannot be read: {error}", hint="Build it again: convkit build.") from error
    return found


@dataclass(frozen=True)
class StagedEngine:
    """The ``folder`` in which an engine is built; `publish` gives it its name, ``target``."""

    folder: Path
    target: Path

    def publish(self, *, rejected: bool = False) -> Path:
        """Rename the folder to the engine's name, or ``<name>.rejected``, in place of what is there; return it."""
        final = self.target.with_name(f"{self.target.name}.rejected") if rejected else self.target
        old = self.folder.with_name(f"{self.folder.name}.replaced")
        while True:
            with suppress(FileNotFoundError):
                final.rename(old)
            try:
                self.folder.rename(final)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                continue  # another build has just published its engine, which this one replaces
            finally:
                shutil.rmtree(old, ignore_errors=True)
            return final


@contextmanager
def engine_staging(artifact: Path, name: str) -> Iterator[StagedEngine]:
    """Yield a folder beside ``engines/<name>`` that is removed unless it is published.

    Raises:
        OutputError, EnvironmentProblem: the disk refuses.
    """
    target = artifact / ENGINES / name
    folder = None
    try:
        target.parent.mkdir(exist_ok=True)
        _remove_stale(target)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}.{os.getpid()}.", suffix=".partial"))
        folder.chmod(0o755)
        yield StagedEngine(folder, target)
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if target.parent.is_dir() and not any(target.parent.iterdir()):
            target.parent.rmdir()


def _remove_stale(target: Path) -> None:
    """Remove what killed builds of an engine left behind."""
    for folder in target.parent.glob(f".{target.name}.*.partial*"):
        process = folder.name.removeprefix(f".{target.name}.").partition(".")[0]
        if process.isdigit() and not is_alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
