"""Sessions of an artifact: its graph, or for backends that build engines the engine that it contains."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from convkit.backends._backend import Backend, Engine, Session, backend_named, find_backend
from convkit.backends._ladder import FAILED, PASSED, Ladder
from convkit.errors import ValidationError

if TYPE_CHECKING:
    from convkit.artifact import Artifact, StoredEngine

__all__ = ["open_artifact", "unproved_reason"]


def open_artifact(
    artifact: Artifact, name: str, *, device: str | None = None, unproved: bool = False, verify: bool = True
) -> Session:
    """Return a session of an artifact by the backend of that name, on ``device`` or where the backend runs by default.

    ``unproved`` also opens an engine that was not proved on such a GPU; ``verify`` False skips the comparison of the
    engine's files with their hashes.

    Raises:
        EnvironmentProblem: there is no such backend, or it cannot run here.
        ArtifactError: the backend builds engines, and the artifact contains none of it.
        IntegrityError: a file of the engine is not the one that was built, or of another graph.
        ValidationError: the engine is not proved.
    """
    backend = backend_named(name)
    device = device or backend.default_device
    if not backend.builds:
        return find_backend(name, device).open(Engine(name, artifact.model), device=device)
    stored = artifact.engine(name)
    if verify:
        stored.verify(artifact)
    backend = find_backend(name, device)
    reason = "" if unproved else unproved_reason(stored, backend, device)
    if reason:
        command = f"convkit validate {shlex.quote(str(artifact.path))} --backend {name} --device {device}"
        raise ValidationError(
            f"The engine {stored.folder} is not proved here: {reason}.",
            hint=f"Prove it on this GPU: {command}\n--unproved runs it as it is.",
        )
    targets = tuple(stored.description["targets"])
    return backend.open(Engine(name, stored.plan, targets, stored.description), device=device)


def unproved_reason(stored: StoredEngine, backend: Backend, device: str) -> str:
    """Return why an engine does not count as proved on a device, or an empty string."""
    ladder = Ladder.from_json(stored.ladder)
    failed = [rung.name for rung in ladder.rungs if rung.state == FAILED]
    if failed:
        return f"its rung {failed[0]!r} failed"
    ran = next((rung for rung in ladder.rungs if rung.name == "ran"), None)
    if ran is None or ran.state != PASSED:
        return "its rung 'ran' is pending, so it never ran on a GPU"
    if ran.details.get("plan") != stored.description["files"][stored.plan.name]["sha256"]:
        return "its verdict is that of another plan"
    here = backend.machine(device)
    for key in ("compute_capability", "version"):
        if ran.details.get(key) != here[key]:
            what = key.replace("_", " ")
            return f"it was proved with {what} {ran.details.get(key)}, and here is {here[key]}"
    return ""
