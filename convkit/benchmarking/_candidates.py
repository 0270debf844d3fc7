"""What a benchmark may run: each artifact on each backend and device, at each batch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convkit.artifact import Artifact, StoredEngine, stored_engines
from convkit.backends import Backend, backend_named
from convkit.errors import SettingError, listing
from convkit.model import BATCH, ModelSpec, substitute
from convkit.plugins import manager

__all__ = ["NETWORK", "PIPELINE", "SCOPES", "Candidate", "check_comparable", "choose_batches", "find_candidates"]

NETWORK, PIPELINE = "network", "pipeline"
SCOPES = (NETWORK, PIPELINE)
"""The network alone, from input tensors to outputs; and all of `convkit run`, from raw inputs to results."""


@dataclass(frozen=True)
class Candidate:
    """An artifact on a backend and a device; ``artifact`` is its path, ``precision`` that of its graph.

    ``seal`` is the one in the manifest, by which a report finds its results.
    """

    artifact: str
    precision: str
    backend: str
    device: str
    seal: str = ""

    @property
    def engine(self) -> str:
        """The backend and the device, for people."""
        return f"{self.backend} ({self.device})"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "artifact": self.artifact,
            "precision": self.precision,
            "backend": self.backend,
            "device": self.device,
            "seal": self.seal,
        }


def find_candidates(
    artifact: Artifact, backends: Sequence[str], devices: Sequence[str]
) -> Iterator[tuple[Candidate, str]]:
    """Yield what could run an artifact, and why it cannot run here (empty: it may).

    Without ``devices`` a backend that runs ONNX is tried on the CPU and on CUDA, one that builds engines where these
    run.

    Raises:
        SettingError: there is no backend of a name.
    """
    engines, seal = stored_engines(artifact), str(artifact.manifest.get("seal", ""))
    for backend in _backends(backends):
        for device in devices or ((backend.default_device,) if backend.builds else ("cpu", "cuda")):
            yield (
                Candidate(str(artifact.path), _precision(artifact, backend, engines), backend.name, device, seal),
                _reason(artifact, backend, device, engines),
            )


def check_comparable(artifacts: Sequence[tuple[Artifact, ModelSpec]]) -> None:
    """Check that artifacts take the same inputs.

    Raises:
        SettingError: they do not, so that their times say nothing about each other.
    """
    (first, spec), *others = artifacts
    known = _inputs(spec)
    for artifact, other in others:
        if _inputs(other) != known:
            raise SettingError(
                f"{artifact.path} takes {_inputs(other)}, and {first.path} takes {known}:"
                " times of different inputs cannot be compared.",
                hint=f"Measure them one at a time: convkit bench {shlex.quote(str(artifact.path))}",
            )


def choose_batches(specs: Sequence[ModelSpec], asked: Sequence[int]) -> tuple[int, ...]:
    """Return the batches to run, those that were asked for or the powers of two that all artifacts take.

    Raises:
        SettingError: an artifact does not take a batch that was asked for, or they have none in common.
    """
    low, high = max(spec.batch.min for spec in specs), min(spec.batch.max for spec in specs)
    if low > high:
        raise SettingError("The artifacts have no batch in common.", hint="Measure them one at a time.")
    for batch in asked:
        if not low <= batch <= high:
            taken = str(low) if low == high else f"{low} to {high}"
            raise SettingError(
                f"A batch of {batch} was asked for, and the artifacts take {taken}.",
                hint="Give a batch in that range, or convert with another one: --shape batch=1:8:32.",
            )
    powers = [1 << power for power in range(high.bit_length()) if low <= 1 << power <= high]
    return tuple(sorted(set(asked or (low, *powers, high))))


def _backends(names: Sequence[str]) -> list[Backend]:
    if names:
        return [backend_named(name) for name in dict.fromkeys(names)]
    found = manager().gather("convkit_backends", of=Backend).values()
    return [backend for group in found for backend in group]


def _precision(artifact: Artifact, backend: Backend, engines: Mapping[str, StoredEngine]) -> str:
    own = str(artifact.manifest["graph"]["precision"])
    return str(engines[backend.name].description.get("precision", own)) if backend.name in engines else own


def _reason(artifact: Artifact, backend: Backend, device: str, engines: Mapping[str, StoredEngine]) -> str:
    """Return why a backend cannot run an artifact on a device of this machine; empty where nothing is known."""
    if backend.builds and backend.name not in engines:
        path = shlex.quote(str(artifact.path))
        return f"the artifact contains no such engine; `convkit build {path} --to {backend.name}` makes one"
    precision = str(artifact.manifest["graph"]["precision"])
    return (backend.problem(device) or backend.unfit(precision, device)).strip().rstrip(".")


def _inputs(spec: ModelSpec) -> str:
    sizes = {dim.name: dim.opt for dim in spec.dims if dim.name != BATCH}
    return listing(
        f"{tensor.name} {tensor.dtype} {' x '.join(substitute(extent, sizes) for extent in tensor.shape) or 'scalar'}"
        for tensor in spec.inputs
    )
