"""What an evaluation found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit.evaluation._changes import Changes

__all__ = ["PYTORCH", "EvaluationReport"]

PYTORCH = "pytorch"
"""The name of the checkpoint's figures."""
AGREEMENT = 1e-3
"""By how much the AP of the artifact and of PyTorch may differ."""


@dataclass(frozen=True)
class EvaluationReport:
    """The figures of the data set by engine: of the artifacts in their order, and of the first one's checkpoint."""

    figures: Mapping[str, Mapping[str, float]]
    images: int
    annotations: int
    seconds: float
    notes: tuple[str, ...] = ()
    """What a reader of the figures has to know."""
    unproved: str = ""
    """Why no proof covers an engine; empty where one does."""
    classes: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Some figures by engine and class, AP first; -1 where the class has no annotations."""
    changes: Changes | None = None
    """What differs between the results of the first two artifacts."""
    kept: int = 0
    """Results that were there already, from an evaluation that this one goes on with."""
    engine_seconds: float = 0.0
    """The part of ``seconds`` in which engines ran and their outputs were decoded."""

    @property
    def agrees(self) -> bool:
        """Whether the first artifact has the AP of its checkpoint to 0.001; without one, whether all artifacts have."""
        first, *artifacts = self._artifacts
        others = [self.figures[PYTORCH]["AP"]] if PYTORCH in self.figures else artifacts
        return max([first, *others]) - min([first, *others]) <= AGREEMENT

    @property
    def drop(self) -> float:
        """By how much the lowest AP of other artifacts is below that of the first; negative where all are above."""
        first, *others = self._artifacts
        return first - min(others, default=first)

    @property
    def _artifacts(self) -> list[float]:
        """The AP of each artifact."""
        return [table["AP"] for name, table in self.figures.items() if name != PYTORCH]

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        first = next(iter(self.figures.values()))
        differences = {
            name: {metric: table[metric] - first[metric] for metric in first if metric in table}
            for name, table in list(self.figures.items())[1:]
        }
        return {
            "figures": {name: dict(table) for name, table in self.figures.items()},
            "classes": {name: {label: dict(row) for label, row in rows.items()} for name, rows in self.classes.items()},
            **({"differences": differences, "agrees": self.agrees} if differences else {"agrees": self.agrees}),
            **({"changes": self.changes.to_json()} if self.changes else {}),
            "images": self.images,
            "annotations": self.annotations,
            "seconds": round(self.seconds, 2),
            "engine_seconds": round(self.engine_seconds, 2),
            "kept": self.kept,
            "notes": list(self.notes),
            **({"unproved": True} if self.unproved else {}),
        }
