"""Boxes with scores and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Detections"]


@dataclass(frozen=True)
class Detections:
    """Boxes of one image, best first.

    ``boxes`` float32 [N, 4] as x1, y1, x2, y2 in pixels of the original image, ``scores`` float32
    [N] in 0..1, ``class_ids`` int64 [N] as indices of ``classes``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or its number where no name is known."""
        return self.classes[class_id] if 0 <= class_id < len(self.classes) else str(class_id)

    def above(self, score: float) -> Detections:
        """Return those whose score is at least ``score``."""
        keep = self.scores >= score
        return Detections(self.boxes[keep], self.scores[keep], self.class_ids[keep], self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"detections": [{"class_id", "class_name", "score", "box"}, …]}``."""
        return {
            "detections": [
                {
                    "class_id": int(class_id),
                    "class_name": self.class_name(int(class_id)),
                    "score": float(score),
                    "box": [float(value) for value in box],
                }
                for box, score, class_id in zip(self.boxes, self.scores, self.class_ids, strict=True)
            ]
        }

    def summary(self) -> str:
        """Return for example ``3 detections: 2 person, 1 dog``."""
        ids, counts = np.unique(self.class_ids, return_counts=True)
        names = ", ".join(
            f"{n} {self.class_name(int(i))}" for i, n in sorted(zip(ids, counts, strict=True), key=lambda p: -p[1])
        )
        return f"{len(self)} detection{'' if len(self) == 1 else 's'}" + (f": {names}" if names else "")

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Draw each box with its class and score."""
        from convkit.results._draw import draw_detections

        return draw_detections(image, self)
