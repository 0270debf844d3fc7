"""The rungs of a proof, and how far it got."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convkit.errors import IntegrityError, SettingError

__all__ = ["FAILED", "NOT_APPLICABLE", "NOT_REPLAYED", "PASSED", "PENDING", "RUNGS", "Ladder", "Rung"]

PASSED = "passed"
FAILED = "failed"
PENDING = "pending"
NOT_REPLAYED = "not replayed"
NOT_APPLICABLE = "not applicable"
_STATUSES = (PASSED, FAILED, PENDING, NOT_REPLAYED, NOT_APPLICABLE)

RUNGS = ("exported", "typed", "decoded", "accepted", "understood", "built", "ran", "pipeline")
"""The rungs of an artifact and of an engine, from the lowest up."""


@dataclass(frozen=True)
class Rung:
    """One statement: its status, what that rests on in a sentence, and the particulars as JSON."""

    name: str
    status: str
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in _STATUSES:
            raise SettingError(
                f"{self.status!r} is not a status of a rung.", hint=f"Use one of {', '.join(_STATUSES)}."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"status": self.status, "summary": self.summary, **self.details}


@dataclass(frozen=True)
class Ladder:
    """Rungs from the lowest up."""

    rungs: tuple[Rung, ...]

    def __getitem__(self, name: str) -> Rung:
        for rung in self.rungs:
            if rung.name == name:
                return rung
        raise KeyError(name)

    @property
    def exit_code(self) -> int:
        """4 if what was typed or built differs from the model, else 3 if a rung failed, else 0."""
        failed = set(self.failed)
        return 4 if failed & {"typed", "understood"} else 3 if failed else 0

    @property
    def failed(self) -> list[str]:
        """The names of the rungs that failed."""
        return [rung.name for rung in self.rungs if rung.status == FAILED]

    def replaced(self, rungs: Iterable[Rung]) -> Ladder:
        """Return the ladder with these rungs in place of those of their names, or where `RUNGS` has them."""
        table = {rung.name: rung for rung in (*self.rungs, *rungs)}
        names = [name for name in RUNGS if name in table] + [name for name in table if name not in RUNGS]
        return Ladder(tuple(table[name] for name in names))

    def completed(self, status: str, reasons: Mapping[str, str], otherwise: str = "") -> Ladder:
        """Return the ladder with all `RUNGS`; those that it lacks have this status and the reason of their name."""
        known = {rung.name for rung in self.rungs}
        missing = [name for name in RUNGS if name not in known and (name in reasons or otherwise)]
        return self.replaced(Rung(name, status, reasons.get(name, otherwise)) for name in missing)

    def to_json(self) -> dict[str, Any]:
        """Return the rungs by name."""
        return {rung.name: rung.to_json() for rung in self.rungs}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Ladder:
        """Return the ladder that `to_json` wrote.

        Raises:
            IntegrityError: it is none, as in a file that somebody edited.
        """
        rungs = []
        try:
            for name, entry in document.items():
                details = {key: value for key, value in entry.items() if key not in ("status", "summary")}
                rungs.append(Rung(name, entry["status"], entry["summary"], details))
        except (LookupError, TypeError, AttributeError, SettingError) as error:
            raise IntegrityError(
                f"A ladder of the artifact cannot be read: {error!r}.",
                hint="Prove the artifact again with convkit validate, or build its engine again.",
            ) from error
        return cls(tuple(rungs))
