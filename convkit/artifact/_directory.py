"""The artifact: a directory with a proved graph, its manifest and its proof, complete or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit.errors import ArtifactError, ConvkitError, EnvironmentProblem, IntegrityError, OutputError
from convkit.files import sha256

if TYPE_CHECKING:
    from convkit.artifact._engines import StoredEngine
    from convkit.artifact._records import ProofRecord

__all__ = ["SCHEMA_VERSION", "Artifact", "anchored", "check_destination", "staging"]

SCHEMA_VERSION = 3
"""3: the ladder in the verdict, what the proof of the conversion ran on."""
MANIFEST = "manifest.json"
MODEL = "model.onnx"
EXPORTED = "exported.onnx"
KERNELS = "kernels"
REPORT = "report.html"
VERDICT = "proof/verdict.json"
SAMPLES = "proof/samples.npz"
REPLACED = "replaced"


@dataclass(frozen=True)
class Artifact:
    """An artifact directory that was opened and whose manifest is whole.

    ``manifest`` is the parsed ``manifest.json``. Nothing else has been read yet; `verify` compares
    every file with its recorded hash.
    """

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """Open an artifact directory.

        Raises:
            ArtifactError: it is no complete artifact, or one of a newer schema.
            IntegrityError: its manifest was edited.
        """
        path = Path(path)
        if not path.exists():
            raise ArtifactError(f"There is no artifact {path}.", hint="`convkit convert` makes one.")
        if not path.is_dir():
            raise ArtifactError(f"{path} is a file, not an artifact directory.", hint="Give the directory it lies in.")
        if path.name.endswith(".partial") or not (path / MANIFEST).is_file():
            raise ArtifactError(
                f"{path} is not a complete artifact: it has no {MANIFEST} or was left behind by a killed conversion.",
                hint="Delete it and convert again.",
            )
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise IntegrityError(
                f"{path / MANIFEST} cannot be read: {error}", hint="Restore the artifact or convert again."
            ) from error
        if not isinstance(manifest, dict) or manifest.get("seal") != seal_of(manifest):
            raise IntegrityError(
                f"{path / MANIFEST} was edited after the proof: its seal does not fit its content.",
                hint="Restore the artifact or convert again; settings are changed by converting, not by editing.",
            )
        if manifest.get("schema_version") != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has manifest schema {manifest.get('schema_version')}; this convkit reads {SCHEMA_VERSION}.",
                hint=f"Use the convkit version that made it, or convert again: {_command(manifest)}",
            )
        return cls(path, manifest)

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict that was reached when the artifact was made."""
        return dict(json.loads((self.path / VERDICT).read_text(encoding="utf-8")))

    def verify(self) -> None:
        """Compare every file with the hash in the manifest.

        Raises:
            IntegrityError: a file is missing or is not the one that was proved.
        """
        for name, entry in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                raise IntegrityError(f"{file} is missing.", hint="Restore the artifact or convert again.")
            if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
                raise IntegrityError(
                    f"{file} is not the file that was proved: its SHA-256 differs from the manifest's.",
                    hint="Restore the artifact or convert again.",
                )

    def engine(self, name: str) -> StoredEngine:
        """Return the engine of that name, its files unverified.

        Raises:
            ArtifactError: there is none.
            IntegrityError: its description cannot be read.
        """
        from convkit.artifact._engines import stored_engines

        found = stored_engines(self)
        if name not in found:
            raise ArtifactError(
                f"{self.path} contains no engine {name!r}.",
                hint=f"Build it on this machine: convkit build {shlex.quote(str(self.path))} --to {name}",
            )
        return found[name]

    def records(self) -> list[ProofRecord]:
        """Return the proofs after the conversion, one for each backend and kind of device.

        Raises:
            IntegrityError: a file cannot be read.
        """
        from convkit.artifact._records import read_records

        return read_records(self)

    def __fspath__(self) -> str:
        return str(self.path)


def check_destination(path: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written later.

    Raises:
        OutputError: something is there already, or the folder cannot be written.
    """
    try:
        remove_stale(path)
        if path.exists() or path.is_symlink():
            if not overwrite:
                raise OutputError(
                    f"{path} exists already.", hint="Give another --output, or --overwrite to replace an artifact."
                )
            if not _is_artifact(path):
                raise OutputError(
                    f"{path} is not an artifact, so it is not overwritten.", hint="Give another --output or remove it."
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        _temporary_beside(path).rmdir()
    except OSError as error:
        raise output_error(path, error) from error


@contextlib.contextmanager
def staging(path: Path) -> Iterator[Path]:
    """Yield a temporary directory beside ``path``; it is removed again unless `publish` renamed it.

    Raises:
        OutputError, EnvironmentProblem: the disk refuses.
    """
    try:
        folder = _temporary_beside(anchored(path))
        folder.chmod(0o755)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield folder
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(path: Path) -> None:
    """Remove what killed conversions to ``path`` left behind, and put back what one was about to replace."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        match = re.fullmatch(re.escape(f".{path.name}.") + r"(\d+)\..+\.partial", folder.name)
        if match and not is_alive(int(match.group(1))):
            if (folder / REPLACED).exists() and not path.exists():
                (folder / REPLACED).rename(path)
            shutil.rmtree(folder, ignore_errors=True)


def _temporary_beside(path: Path) -> Path:
    """Make a folder whose name tells for which output it is and which process made it."""
    return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}.", suffix=".partial"))


def _is_artifact(path: Path) -> bool:
    """Tell whether ``path`` is an artifact, be it one that was edited or is of another schema."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "files", "seal"} <= manifest.keys()


def publish(folder: Path, path: Path, manifest: Mapping[str, Any], *, overwrite: bool) -> Artifact:
    """Seal ``folder`` with its manifest and rename it to ``path``, in one step for any onlooker.

    The manifest is written last, after every other file has reached the disk. The artifact that is replaced may be
    the working directory: a relative ``path`` means what it meant before, and the result then has an absolute one.
    """
    folder, path, given = anchored(folder), anchored(path), path
    files = {
        str(file.relative_to(folder).as_posix()): {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    document: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **manifest, "files": files}
    document["seal"] = seal_of(document)
    for name in files:
        _flush(folder / name)
    (folder / MANIFEST).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _flush(folder / MANIFEST)
    if overwrite and path.exists():
        old = _temporary_beside(path)
        path.rename(old / REPLACED)
        try:
            folder.rename(path)
        finally:
            if not path.exists():
                (old / REPLACED).rename(path)
            shutil.rmtree(old, ignore_errors=True)
    else:
        try:
            folder.rename(path)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise OutputError(
                    f"{given} appeared while the conversion ran.", hint="Give another --output or --overwrite."
                ) from error
            raise
    return Artifact(given if given.exists() else path, document)


def _command(manifest: Mapping[str, Any]) -> str:
    """Return the command that makes an artifact of any schema anew, with the settings that were asked for."""
    adapter, weights = (manifest.get(key) for key in ("adapter", "weights"))
    name = adapter.get("name", "ADAPTER") if isinstance(adapter, dict) else "ADAPTER"
    file = weights.get("file", "FILE") if isinstance(weights, dict) else "FILE"
    words = ["convkit", "convert", str(name), "--weights", str(file)]
    for setting in manifest.get("settings", ()):
        if setting["origin"] in ("adapter", "built-in"):
            continue
        flag, _, option = setting["name"].partition(".")
        value = setting["value"]
        if option:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{flag}", f"{option}={text}"]
        elif isinstance(value, bool):
            words += [f"--{flag.replace('_', '-')}"] * value
        else:
            for item in value if isinstance(value, list) else [value]:
                words += [f"--{flag.replace('_', '-')}", str(item)]
    return shlex.join(words)


def anchored(path: Path) -> Path:
    """Return an absolute path without ``..`` that stays right when the working directory is moved.

    The last part may be a link and stays one.
    """
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the canonical JSON of everything but the seal itself."""
    body = {key: value for key, value in manifest.items() if key != "seal"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def is_alive(pid: int) -> bool:
    """Return whether a process of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def output_error(path: Path, error: OSError) -> ConvkitError:
    """Return what a failed write to ``path`` means to people."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return EnvironmentProblem(
            f"No room to write {path}: {error.strerror}.", hint="Free some space or give an --output elsewhere."
        )
    return OutputError(
        f"Cannot write {path}: {error.strerror or error}.", hint="Give an --output in a folder that you may write to."
    )
