"""The framing of a plan: what a file says of itself before any library reads it."""

from __future__ import annotations

from pathlib import Path

from convkit.backends.tensorrt._flavour import Flavour
from convkit.errors import EnvironmentProblem, IntegrityError

__all__ = ["read_plan"]

MAGIC, SIZE, VERSION, END = slice(0, 4), slice(16, 24), slice(24, 28), 64
"""Where a header contains its first word, the size of the file and the version of the library that wrote it."""
_AGAIN = "Build it again on this machine: convkit build ARTIFACT --to {name}."


def read_plan(file: Path, flavour: Flavour, version: str) -> bytes:
    """Return the bytes of a plan whose framing is that of a flavour and its ``version`` (``1.7.1.116``).

    The framing of full TensorRT is documented nowhere: of its plans only what belongs to the other flavour is refused.

    Raises:
        IntegrityError: the file is missing, empty, cut, longer than it says, or no plan.
        EnvironmentProblem: it is a plan of the other flavour or of another version.
    """
    again = _AGAIN.format(name=flavour.name)
    try:
        plan = file.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{file} cannot be read: {error.strerror}.", hint=again) from error
    if not plan:
        raise IntegrityError(f"{file} is empty.", hint=again)
    if not flavour.magic:
        if plan[MAGIC] == b"vtrt":
            raise EnvironmentProblem(
                f"{file} is an engine of TensorRT-RTX, not of {flavour.title}.",
                hint="Run it with --backend tensorrt-rtx.",
            )
        return plan
    if plan[MAGIC] == b"ftrt":
        raise EnvironmentProblem(f"{file} is an engine of TensorRT, not of {flavour.title}.", hint=again)
    if plan[MAGIC] != flavour.magic:
        raise IntegrityError(f"{file} is no engine of {flavour.title}.", hint=again)
    size = int.from_bytes(plan[SIZE], "little")
    if len(plan) < END or size != len(plan):
        raise IntegrityError(f"{file} has {len(plan)} bytes where its header says {size}: it is damaged.", hint=again)
    built = ".".join(map(str, plan[VERSION]))
    if built != version:
        raise EnvironmentProblem(
            f"{file} was built by {flavour.title} {built}; {version} is installed.",
            hint=f"{again[:-1]}, or install the version that it was built by.",
        )
    return plan
