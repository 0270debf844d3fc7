"""The rungs of an engine's proof and how far it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from convkit.errors import SettingError

__all__ = ["FAILED", "NOT_REPLAYED", "PASSED", "PENDING", "Ladder", "Rung"]

PASSED = "passed"
FAILED = "failed"
PENDING = "pending"
NOT_REPLAYED = "not replayed"
_STATES = (PASSED, FAILED, PENDING, NOT_REPLAYED)


@dataclass(frozen=True)
class Rung:
    """One statement about an engine: its state, what that rests on in a sentence, and the particulars as JSON."""

    name: str
    state: str
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.state not in _STATES:
            raise SettingError(f"{self.state!r} is not a state of a rung.", hint=f"Use one of {', '.join(_STATES)}.")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"state": self.state, "summary": self.summary, **self.details}


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
        failed = {rung.name for rung in self.rungs if rung.state == FAILED}
        return 4 if failed & {"typed", "understood"} else 3 if failed else 0

    def to_json(self) -> dict[str, Any]:
        """Return the rungs by name."""
        return {rung.name: rung.to_json() for rung in self.rungs}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Ladder:
        """Return the ladder that `to_json` wrote."""
        rungs = []
        for name, entry in document.items():
            details = {key: value for key, value in entry.items() if key not in ("state", "summary")}
            rungs.append(Rung(name, entry["state"], entry["summary"], details))
        return cls(tuple(rungs))
