"""Proofs of an artifact after its conversion: one small file for each backend and kind of device."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from convkit._documents import read_document
from convkit.artifact._directory import WRITABLE, Artifact, seal_of, unreadable
from convkit.errors import unwritten
from convkit.files import write_atomic

__all__ = ["ProofRecord", "read_records", "record_file", "write_record"]

FOLDER = "proof/backends"


@dataclass(frozen=True)
class ProofRecord:
    """How a backend did on a kind of device: the ladder of the last proof there.

    ``device`` is the kind, ``cpu`` or ``cuda``; ``machine`` names the backend's version and, of a GPU, its name and
    compute capability. ``problem`` says why the file does not count; empty where it does.
    """

    backend: str
    device: str
    machine: Mapping[str, str]
    ladder: Mapping[str, Any] = field(repr=False)
    problem: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Backend, kind of device and compute capability: what one proof covers."""
        return self.backend, self.device, self.machine.get("compute_capability", "")

    def to_json(self) -> dict[str, Any]:
        """Return backend, device, machine and ladder as a JSON object."""
        return {
            "backend": self.backend,
            "device": self.device,
            "machine": dict(self.machine),
            "ladder": dict(self.ladder),
        }


def read_records(artifact: Artifact) -> list[ProofRecord]:
    """Return the proofs that `write_record` kept, by file name; one that was edited or copied has a ``problem``.

    Raises:
        IntegrityError: a file cannot be read.
    """
    from convkit.artifact._schema import RecordDocument

    found = []
    for file in sorted((artifact.path / FOLDER).glob("*.json")):
        with unreadable(file, "Delete it, and prove the artifact again: convkit validate."):
            document = read_document(file, RecordDocument)
        record = ProofRecord(document["backend"], document["device"], document["machine"], document["ladder"])
        problem = ""
        if document["seal"] != seal_of(document) or file.name != _name(record):
            problem = f"{file} was edited"
        elif document["artifact"] != artifact.manifest.get("seal"):
            problem = f"{file} belongs to another artifact"
        found.append(replace(record, problem=problem))
    return found


def record_file(artifact: Artifact, record: ProofRecord) -> Path:
    """Return the file for a proof of this backend and kind of device, whether or not it is there."""
    return artifact.path / FOLDER / _name(record)


def write_record(artifact: Artifact, record: ProofRecord) -> Path:
    """Write what a proof found into the artifact, in place of the last one there; return the file.

    Raises:
        OutputError, EnvironmentProblem: the disk refuses, or the artifact may only be read.
    """
    file = record_file(artifact, record)
    document = {**record.to_json(), "artifact": artifact.manifest.get("seal")}
    document["seal"] = seal_of(document)
    try:
        write_atomic(file, json.dumps(document, indent=2, ensure_ascii=False) + "\n", durable=True)
    except OSError as error:
        raise unwritten(file, error, WRITABLE) from error
    return file


def _name(record: ProofRecord) -> str:
    return re.sub(r"[^\w.-]", "_", "-".join(filter(None, record.key))) + ".json"
