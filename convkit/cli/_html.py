"""What the commands that write reports have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit.artifact import Artifact
    from convkit.progress import Progress

__all__ = ["measured_errors", "outside", "write_text"]


def outside(file: Path, *artifacts: Artifact | None) -> None:
    """Refuse to write into an artifact, whose files have hashes.

    Raises:
        OutputError: the file lies in one of them, or nobody can tell where it lies.
    """
    from convkit.errors import OutputError

    try:
        place = file.resolve()
        roots = [artifact.path.resolve() for artifact in artifacts if artifact is not None]
    except (OSError, RuntimeError) as error:  # RuntimeError: links without end
        raise OutputError(f"{file} cannot be found: {error}", hint="Give a file elsewhere.") from error
    for artifact, root in zip(filter(None, artifacts), roots, strict=True):
        if root in (place, *place.parents):
            raise OutputError(
                f"{file} lies in the artifact {artifact.path}, whose files are sealed.", hint="Give a file elsewhere."
            )


def measured_errors(artifact: Artifact, samples: int, progress: Progress) -> Mapping[str, Any]:
    """Return what each node of an artifact errs, as `convkit bisect --json` prints it."""
    from convkit.bisection import bisect_artifact

    return bisect_artifact(artifact.path, samples=samples, progress=progress).to_json()


def write_text(file: Path, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        OutputError, EnvironmentProblem: it cannot be written.
    """
    from convkit.errors import unwritten
    from convkit.files import write_atomic

    try:
        write_atomic(file, text)
        file.chmod(0o644)
    except OSError as error:
        raise unwritten(file, error, "Give another file.") from error
