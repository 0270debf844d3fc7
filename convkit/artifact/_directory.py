"""The artifact: a directory with a proved graph, its manifest and its proof, complete or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import reprlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convkit._documents import checked, inner_file, parse_json, read_bounded, read_document
from convkit.artifact._unlisted import refuse_unlisted, refuse_unlisted_weights
from convkit.errors import ArtifactError, IntegrityError
from convkit.files import put_back, sha256

if TYPE_CHECKING:
    from convkit.artifact._engines import StoredEngine
    from convkit.artifact._records import ProofRecord

__all__ = ["SCHEMA_VERSION", "Artifact", "anchored", "check_manifest", "seal_of", "unreadable"]

SCHEMA_VERSION = 3
"""3: the ladder in the verdict, what the proof of the conversion ran on."""
MANIFEST = "manifest.json"
MODEL = "model.onnx"
EXPORTED = "exported.onnx"
KERNELS = "kernels"
REPORT = "report.html"
VERDICT = "proof/verdict.json"
GRAPHS = "proof/rewrites.json"
"""For people: one place of each rewrite, as `convkit.reporting.excerpt` describes it."""
SAMPLES = "proof/samples.npz"
_RESTORE = "Restore the artifact or convert again."
WRITABLE = "Copy the artifact to a folder that you may write to."
"""The remedy where something cannot be added to an artifact."""


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
            IntegrityError: its manifest was edited, or has fields that are missing or of another type.
        """
        path = Path(path)
        if not path.exists():
            with contextlib.suppress(OSError):
                put_back(anchored(path))
        if not path.exists():
            raise ArtifactError(f"There is no artifact {path}.", hint="`convkit convert` makes one.")
        if not path.is_dir():
            raise ArtifactError(f"{path} is a file, not an artifact directory.", hint="Give the directory it lies in.")
        if _unfinished(anchored(path)) or not (path / MANIFEST).is_file():
            raise ArtifactError(
                f"{path} is not a complete artifact: it has no {MANIFEST} or was left behind by a killed conversion.",
                hint="Delete it and convert again.",
            )
        manifest = _read_manifest(path)
        return cls(path, manifest)

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.path / MODEL

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict that was reached when the artifact was made.

        Raises:
            IntegrityError: its file cannot be read, or is no verdict.
        """
        from convkit.artifact._schema import VerdictDocument

        with unreadable(self.path / VERDICT):
            return dict(read_document(self.file(VERDICT), VerdictDocument))

    @property
    def graphs(self) -> list[dict[str, Any]]:
        """One place of each rewrite, as `convkit.reporting.excerpt` describes it; none in older artifacts.

        Raises:
            IntegrityError: the file cannot be read.
        """
        from convkit.artifact._schema import ExcerptDocument

        if GRAPHS not in self.manifest["files"]:
            return []
        with unreadable(self.path / GRAPHS):
            found: list[dict[str, Any]] = read_document(self.file(GRAPHS), list[ExcerptDocument])
            for side in (one[name] for one in found for name in ("before", "after")):
                if any(max(edge[:2]) >= len(side["nodes"]) for edge in side["edges"]):
                    raise ValueError("an edge leads to a node that is not there")
            return found

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists, so that `verify` has compared it.

        Raises:
            IntegrityError: it is not listed.
        """
        if name not in self.manifest["files"]:
            raise IntegrityError(f"The manifest of {self.path} does not list {name}.", hint=_RESTORE)
        return self.path / name

    def verify(self) -> None:
        """Compare every file with the hash in the manifest.

        Raises:
            IntegrityError: a file is missing, is a link, is not the one that was proved, or is there without being
                listed though it would be taken for a part of the artifact.
        """
        root = self.path.resolve()
        for name, entry in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                raise IntegrityError(f"{file} is missing.", hint=_RESTORE)
            if file.resolve() != root / name:
                raise IntegrityError(f"{file} is a link, or in a linked folder.", hint="Put the file itself there.")
            if file.stat().st_size != entry["bytes"] or sha256(file) != entry["sha256"]:
                raise IntegrityError(
                    f"{file} is not the file that was proved: its SHA-256 differs from the manifest's.",
                    hint=_RESTORE,
                )
        with unreadable(root):
            refuse_unlisted(root, self.manifest["files"])
            for name in {MODEL, EXPORTED} & self.manifest["files"].keys():
                refuse_unlisted_weights(root, name, self.manifest["files"])

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


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of an artifact after its seal and every field were checked."""
    file = path / MANIFEST
    with unreadable(file):
        manifest = parse_json(read_bounded(file))
    if not isinstance(manifest, dict) or manifest.get("seal") != seal_of(manifest):
        raise IntegrityError(
            f"{file} was edited after the proof: its seal does not fit its content.",
            hint="Restore the artifact or convert again; settings are changed by converting, not by editing.",
        )
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has manifest schema {reprlib.repr(version)}; this convkit reads {SCHEMA_VERSION}.",
            hint=f"Use the convkit version that made it, or convert again: {_command(manifest)}",
        )
    check_manifest(manifest, file)
    return manifest


def check_manifest(manifest: Mapping[str, Any], file: Path = Path(MANIFEST)) -> None:
    """Check the fields of a manifest, and that the files that are listed are in the artifact.

    Raises:
        IntegrityError: a field is missing or of another type, or a file name leads out of the artifact.
    """
    from convkit.artifact._schema import Manifest

    with unreadable(file):
        checked(manifest, Manifest)
        for name in manifest["files"]:
            inner_file(name)
    for name in (MODEL, VERDICT):
        if name not in manifest["files"]:
            raise IntegrityError(f"{file} does not list {name}.", hint=_RESTORE)


@contextlib.contextmanager
def unreadable(file: Path, hint: str = "") -> Iterator[None]:
    """Turn what is wrong with a file of an artifact into an `IntegrityError`."""
    try:
        yield
    except (OSError, ValueError, LookupError) as error:
        text = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise IntegrityError(f"{file} cannot be read: {text}", hint=hint or _RESTORE) from error


def _command(manifest: Mapping[str, Any]) -> str:
    """Return the command that makes an artifact of any schema anew, with the settings that were asked for."""
    adapter, weights = (manifest.get(key) for key in ("adapter", "weights"))
    name = adapter.get("name", "ADAPTER") if isinstance(adapter, dict) else "ADAPTER"
    file = weights.get("file", "FILE") if isinstance(weights, dict) else "FILE"
    words = ["convkit", "convert", str(name), "--weights", str(file)]
    settings = manifest.get("settings")
    for setting in settings if isinstance(settings, list) else ():
        if isinstance(setting, dict) and setting.get("origin") not in ("adapter", "built-in"):
            words += _flag(str(setting.get("name")), setting.get("value"))
    return shlex.join(words)


def _flag(name: str, value: Any) -> list[str]:
    """Return the words that give a setting on the command line."""
    flag, _, option = name.partition(".")
    word = f"--{flag.replace('_', '-')}"
    if option:
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        return [word, f"{option}={text}"]
    if isinstance(value, bool):
        return [word] * value
    return [part for item in (value if isinstance(value, list) else [value]) for part in (word, str(item))]


def seal_of(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 over the canonical JSON of everything but the seal itself."""
    body = {key: value for key, value in manifest.items() if key != "seal"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return sha256(text)


def anchored(path: Path) -> Path:
    """Return an absolute path without ``..`` that stays right when the working directory is moved.

    The last part may be a link and stays one.

    Raises:
        OSError: its folder is behind a chain of links without end, or the working directory is gone.
    """
    try:
        return _anchored(path)
    except RuntimeError as error:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def _anchored(path: Path) -> Path:
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def _unfinished(path: Path) -> bool:
    """Return whether a folder, or the one that it is in, is the scratch folder of a conversion."""
    return any(part.startswith(".") and part.endswith(".partial") for part in path.parts[-2:])
