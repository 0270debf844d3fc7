"""The steps of an examination: what was tried, what came of it, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from convkit.errors import ConvkitError, ValidationError
from convkit.progress import Progress

__all__ = ["FAILED", "NOT_OFFERED", "PASSED", "SKIPPED", "WRONG", "OpenStep", "Step", "Steps"]

PASSED = "passed"
WRONG = "wrong"
"""It computes something else."""
FAILED = "failed"
"""It does not work."""
SKIPPED = "skipped"
"""It cannot be tried here."""
NOT_OFFERED = "not offered"
"""The flavour, or the way, does not do this at all."""


@dataclass(frozen=True)
class Step:
    """One thing that was tried, or why it was not.

    ``section`` is the machine or a flavour, ``case`` what it was tried on; steps of one name and several cases belong
    together. ``details`` is a JSON object.
    """

    section: str
    name: str
    state: str
    text: str
    remedy: str = ""
    case: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "section": self.section, "name": self.name, "case": self.case, "state": self.state, "text": self.text,
            "remedy": self.remedy, "seconds": round(self.seconds, 3), "details": dict(self.details),
        }  # fmt: skip


@dataclass
class OpenStep:
    """A step that is being made; it is kept with what was last set."""

    state: str = PASSED
    text: str = ""
    remedy: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def set(self, state: str, text: str, remedy: str = "", **details: Any) -> None:
        """Say what came of it."""
        self.state, self.text, self.remedy = state, text, remedy
        self.details.update(details)


class Steps:
    """The steps made so far, in order."""

    def __init__(self, progress: Progress) -> None:
        self.made: list[Step] = []
        self._progress = progress

    @contextmanager
    def step(self, section: str, name: str, case: str = "") -> Iterator[OpenStep]:
        """Make a step, timed; an error for people becomes its state, so that the examination goes on."""
        self._progress(f"{section}: {name}{f', {case}' if case else ''}")
        opened, start = OpenStep(), time.perf_counter()
        try:
            yield opened
        except ConvkitError as error:
            state = WRONG if isinstance(error, ValidationError) else FAILED
            opened.set(state, error.message, error.hint, error=type(error).__name__)
        except OSError as error:
            reason = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
            opened.set(FAILED, reason, "Make room on the disk, or set TMPDIR to a folder that can be written.")
        seconds = time.perf_counter() - start
        self.made.append(Step(section, name, opened.state, opened.text, opened.remedy, case, opened.details, seconds))

    def note(self, section: str, name: str, state: str, text: str, case: str = "", remedy: str = "") -> None:
        """Add a step that took no work."""
        self.made.append(Step(section, name, state, text, remedy, case))
