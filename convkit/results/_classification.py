"""Class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification:
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

    def to_json(self) -> dict[str, Any]:
        """Return ``{"classes": [{"class_id", "class_name", "probability"}, …]}``, best first."""
        return {
            "classes": [{"class_id": i, "class_name": name, "probability": value} for i, name, value in self.best()]
        }

    def summary(self) -> str:
        """Return for example ``seven (0.98)``."""
        _, name, value = self.best()[0]
        return f"{name} ({value:.2f})"

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Write the best class on the image."""
        from convkit.results._draw import draw_caption

        return draw_caption(image, self.summary())
