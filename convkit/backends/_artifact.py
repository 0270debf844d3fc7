"""Sessions of an artifact: its graph, or for backends that build engines the engine that it contains."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convkit.backends._backend import Engine, Session, backend_named, find_backend
from convkit.backends._guarded import open_engine
from convkit.backends._ladder import NOT_APPLICABLE, PASSED, Ladder
from convkit.errors import EnvironmentProblem, SettingError, ValidationError

if TYPE_CHECKING:
    from convkit.artifact import Artifact, StoredEngine

__all__ = ["Coverage", "coverage", "device_kind", "open_artifact", "proved_engine", "validate_command"]


@dataclass(frozen=True)
class Coverage:
    """Whether a proof covers a backend on a device: ``reason`` says why none does, and is empty where one does.

    ``note`` is what a reader of the results has to know all the same, such as another version of the backend.
    """

    reason: str = ""
    note: str = ""


def proved_engine(artifact: Artifact, backend: str | None = None, device: str | None = None) -> tuple[str, str]:
    """Return the backend and the device to use where they are not given: those that proved the artifact.

    Another backend than that runs where it does by default.

    Raises:
        SettingError: there is no such backend.
        EnvironmentProblem: no plugin here offers the one that proved the artifact.
    """
    known = artifact.manifest["environment"]["engine"]
    name = backend or str(known["backend"])
    if not backend:
        try:
            backend_named(name)
        except SettingError as error:
            raise EnvironmentProblem(
                f"{artifact.path} was proved with the backend {name!r}, which no plugin here offers.",
                hint="Install the plugin, or give a --backend that `convkit validate` proves.",
            ) from error
    if device:
        return name, device
    return name, str(known["device"]) if name == known["backend"] else backend_named(name).default_device


def device_kind(device: str) -> str:
    """Return ``cpu`` or ``cuda`` of ``cpu`` or ``cuda:1``."""
    return device.partition(":")[0]


def validate_command(artifact: Artifact, backend: str, device: str) -> str:
    """Return the command that proves a backend on a device."""
    return f"convkit validate {shlex.quote(str(artifact.path))} --backend {backend} --device {device}"


def open_artifact(
    artifact: Artifact, name: str, *, device: str | None = None, unproved: bool = False, verify: bool = True
) -> Session:
    """Return a session of an artifact by the backend of that name, on ``device`` or where the backend runs by default.

    ``unproved`` also opens what no proof covers (see `coverage`); ``verify`` False skips the comparison of the engine's
    files with their hashes.

    Raises:
        SettingError: there is no such backend.
        EnvironmentProblem: it cannot run here, or is no judge of the artifact's precision.
        ArtifactError: the backend builds engines, and the artifact contains none of it.
        IntegrityError: a file of the engine is not the one that was built, or of another graph.
        ValidationError: no proof covers the backend on this device.
    """
    backend = backend_named(name)
    device = device or backend.default_device
    stored = artifact.engine(name) if backend.builds else None
    if stored and verify:
        stored.verify(artifact)
    backend = find_backend(name, device)
    precision = artifact.manifest["graph"]["precision"]
    if unfit := backend.unfit(precision, device):
        known = artifact.manifest["environment"]["engine"]
        raise EnvironmentProblem(
            f"{artifact.path} is {precision}, and {unfit}.",
            hint=f"Use --backend {known['backend']} (--device {known['device']}), which proved it.",
        )
    reason = "" if unproved else coverage(artifact, name, device).reason
    if reason:
        what = f"The engine {stored.folder}" if stored else f"{artifact.path} on {name} ({device})"
        raise ValidationError(
            f"{what} is not proved here: {reason}.",
            hint=f"`{validate_command(artifact, name, device)}` proves it; --unproved runs it as it is.",
        )
    if stored is None:
        return open_engine(backend, Engine(name, artifact.model), device=device)
    targets = tuple(stored.description["targets"])
    session = open_engine(backend, Engine(name, stored.plan, targets, stored.description), device=device)
    session.edges = stored.description.get("io", {})
    return session


def coverage(artifact: Artifact, name: str, device: str) -> Coverage:
    """Return whether a proof covers the backend of that name on a device of this machine.

    The conversion covers its own backend on its kind of device, and each `convkit validate` that passed covers the
    backend and kind of device it ran on; a GPU counts by its compute capability. One that failed takes that back.
    Another version of a backend that runs ONNX still counts, with a note; of one that builds engines it does not.

    Raises:
        SettingError: there is no such backend.
        EnvironmentProblem: there is no such device.
        ArtifactError, IntegrityError: the artifact lacks the engine, or its records cannot be read.
    """
    backend = backend_named(name)
    here = backend.machine(device)
    if backend.builds:
        return Coverage(_engine_reason(artifact.engine(name), here))
    kind, capability = device_kind(device), here.get("compute_capability", "")
    for record in artifact.records():
        if record.key == (name, kind, capability):
            return _graph_coverage(record.problem, record.ladder, record.machine, here)
    known = artifact.manifest["environment"]["engine"]
    if (known["backend"], device_kind(known["device"])) != (name, kind):
        there = f"{known['backend']} ({known['device']})"
        return Coverage(f"the conversion proved it on {there}, and no `convkit validate` has passed on this")
    if known.get("compute_capability", "") != capability:
        there = f"compute capability {known.get('compute_capability')}"
        return Coverage(f"it was proved with {there}, and here is {capability}")
    return _graph_coverage("", artifact.verdict["ladder"], known, here)


def _graph_coverage(
    problem: str, document: Mapping[str, Any], there: Mapping[str, Any], here: Mapping[str, str]
) -> Coverage:
    ladder = Ladder.from_json(document)
    problem = problem or _failed(ladder)
    low = [rung for rung in ladder.rungs if rung.status not in (PASSED, NOT_APPLICABLE)]
    if not problem and low:
        problem = f"its rung {low[0].name!r} is {low[0].status}"
    if problem:
        return Coverage(problem)
    versions = there.get("version", ""), here.get("version", "")
    return Coverage(
        note=f"proved with version {versions[0]}, and here is {versions[1]}" if len({*versions}) > 1 else ""
    )


def _failed(ladder: Ladder) -> str:
    """Return which rungs failed, as a reason; empty where none did."""
    names = " and ".join(map(repr, ladder.failed))
    return f"its rung{'s' * (len(ladder.failed) > 1)} {names} failed" if names else ""


def _engine_reason(stored: StoredEngine, here: Mapping[str, str]) -> str:
    """Return why an engine does not count as proved on a machine, or an empty string."""
    ladder = Ladder.from_json(stored.ladder)
    if ladder.failed:
        return _failed(ladder)
    ran = next((rung for rung in ladder.rungs if rung.name == "ran"), None)
    if ran is None or ran.status != PASSED:
        return "its rung 'ran' is pending, so it never ran on a GPU"
    pipeline = next((rung for rung in ladder.rungs if rung.name == "pipeline"), None)
    if pipeline is None or pipeline.status not in (PASSED, NOT_APPLICABLE):
        return "its rung 'pipeline' is pending"
    if ran.details.get("plan") != stored.description["files"][stored.plan.name]["sha256"]:
        return "its verdict is that of another plan"
    for key in ("compute_capability", "version"):
        if ran.details.get(key) != here[key]:
            what = key.replace("_", " ")
            return f"it was proved with {what} {ran.details.get(key)}, and here is {here[key]}"
    return ""
