"""Class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.results._detections import MOST_SCORE, worst
from convkit.results._result import SLACK, Difference, Result

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification(Result):
    """Class probabilities of one image: ``probabilities`` float32 [C], indices of ``classes``."""

    probabilities: np.ndarray
    classes: Sequence[str] = ()
    top: int = 5

    def best(self) -> list[tuple[int, str, float]]:
        """Return (class id, class name, probability) of the ``top`` best classes."""
        order = np.argsort(-self.probabilities, kind="stable")[: self.top]
        return [
            (int(i), self.classes[i] if i < len(self.classes) else str(i), float(self.probabilities[i])) for i in order
        ]

    def compare(self, other: Result, *, slack: float = SLACK) -> Difference:
        """Compare the best class, and all probabilities (``max_score``)."""
        if not isinstance(other, Classification):
            return super().compare(other, slack=slack)
        if len(self.probabilities) != len(other.probabilities):
            return Difference(1, 0, 0, 1, note=f"{len(self.probabilities)} classes and {len(other.probabilities)}")
        best, theirs = int(np.argmax(self.probabilities)), int(np.argmax(other.probabilities))
        tie = best != theirs and abs(float(self.probabilities[best] - self.probabilities[theirs])) <= slack
        return Difference(
            expected=1,
            matched=int(best == theirs),
            ties=int(tie),
            unexplained=int(best != theirs and not tie),
            figures={"max_score": worst(np.abs(self.probabilities.astype(np.float64) - other.probabilities))},
            floors={"max_score": SLACK},
            ceilings={"max_score": MOST_SCORE},
        )

    def to_json(self) -> dict[str, Any]:
        """Return ``{"classes": [{"class_id", "class_name", "probability"}, …]}``, best first."""
        return {
            "classes": [{"class_id": i, "class_name": name, "probability": value} for i, name, value in self.best()]
        }

    def summary(self) -> str:
        """Return for example ``seven (0.98)``."""
        _, name, value = self.best()[0]
        return f"{name} ({value:.2f})"

    def draw(self, raw: np.ndarray) -> np.ndarray:
        """Write the best class on the image."""
        from convkit.results._draw import draw_caption

        return draw_caption(raw, self.summary())
