"""Boxes with key points: compared by matching the boxes, then point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.results._detections import (
    BOX_FLOOR,
    MOST_BOX,
    MOST_SCORE,
    Detections,
    lonely_boxes,
    mark_lonely,
    match_boxes,
    worst,
)
from convkit.results._result import SLACK, Difference, Result

__all__ = ["COCO_EDGES", "COCO_JOINTS", "Poses"]

COCO_JOINTS = (
    "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
    "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
    "right ankle",
)  # fmt: skip
"""The 17 joints of COCO, in its order."""
COCO_EDGES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12),
    (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip
"""The lines between them of a drawn skeleton."""

SAME_POINT = 1.0
"""Pixels by which a key point may differ and be the same."""
JUMP_SHARE = 0.02
"""The share of an image's key points that rounding may move to another candidate."""
LONGEST_JUMP = 1.0
"""How far rounding may move a key point, in sides of its box."""


@dataclass(frozen=True)
class Poses(Result):
    """People or other things with key points in one image, best first.

    ``boxes`` float32 [N, 4] as x1, y1, x2, y2 and ``points`` float32 [N, J, 2] as x, y, in pixels of the original
    image; ``scores`` float32 [N] in 0..1. ``joints`` names the points, ``edges`` are the pairs of them that a drawing
    connects.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray
    joints: Sequence[str] = COCO_JOINTS
    edges: Sequence[tuple[int, int]] = COCO_EDGES

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> Poses:
        """Return those whose score is at least ``score``."""
        keep = self.scores >= score
        return Poses(self.boxes[keep], self.scores[keep], self.points[keep], self.joints, self.edges)

    def compare(self, other: Result, *, slack: float = SLACK) -> Difference:
        """Match boxes as `Detections.compare` does, then compare the points of each pair.

        Where a point is one of several candidates, rounding may decide for another one: it then jumps. Up to a fiftieth
        of the points may, and one of few, by the longer side of their box at most; a pose with such a point is a tie.
        ``max_box`` and ``max_point`` are the largest differences of a coordinate in pixels, without jumps.
        """
        if not isinstance(other, Poses):
            return super().compare(other, slack=slack)
        if self.points.shape[1:] != other.points.shape[1:]:
            note = f"{self.points.shape[1]} and {other.points.shape[1]} key points"
            return Difference(len(self), 0, 0, max(len(self), len(other), 1), note=note)
        found = match_boxes(self._detections(), other._detections(), slack)
        apart = np.abs(self.points[found.rows].astype(np.float64) - other.points[found.columns]).max(-1, initial=0.0)
        apart = np.where(np.isnan(apart), np.inf, apart)
        boxes = self.boxes[found.rows].astype(np.float64)
        sides = np.maximum(np.abs(boxes[:, 2] - boxes[:, 0]), np.abs(boxes[:, 3] - boxes[:, 1]))
        jumps = apart > SAME_POINT
        excused = jumps.sum() <= max(1, JUMP_SHARE * jumps.size) and bool(
            (apart <= np.maximum(LONGEST_JUMP * sides, SAME_POINT)[:, None])[jumps].all()
        )
        moved = int(jumps.any(axis=1).sum())
        return Difference(
            expected=len(self),
            matched=len(found.rows) - moved,
            ties=found.ties + (moved if excused else 0),
            unexplained=found.unexplained + (0 if excused else moved),
            figures={"max_box": found.shift, "max_point": worst(apart[~jumps]), "max_score": found.score},
            floors={"max_box": BOX_FLOOR, "max_point": BOX_FLOOR, "max_score": SLACK},
            ceilings={"max_box": MOST_BOX, "max_point": MOST_BOX, "max_score": MOST_SCORE},
        )

    def unmatched(self, other: Poses) -> Poses:
        """Return those whose box has no partner in another result of the same input, in the sense of `compare`."""
        lonely = lonely_boxes(self._detections(), other._detections())
        return Poses(self.boxes[lonely], self.scores[lonely], self.points[lonely], self.joints, self.edges)

    def to_json(self) -> dict[str, Any]:
        """Return ``{"poses": [{"score", "box", "points": {joint: [x, y]}}, …]}``."""
        return {
            "poses": [
                {
                    "score": float(score),
                    "box": [float(value) for value in box],
                    "points": {name: [float(x), float(y)] for name, (x, y) in zip(self.joints, points, strict=True)},
                }
                for box, score, points in zip(self.boxes, self.scores, self.points, strict=True)
            ]
        }

    def to_coco(self, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
        """Return entries of a COCO key point results file; each point counts as visible, as in the original."""
        return [
            {
                "image_id": image_id,
                "category_id": category_id,
                "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                "score": float(score),
                "keypoints": [float(value) for x, y in points for value in (x, y, 1)],
            }
            for (x1, y1, x2, y2), score, points in zip(self.boxes, self.scores, self.points, strict=True)
        ]

    def summary(self) -> str:
        """Return for example ``3 poses, the best with 0.91``."""
        best = f", the best with {self.scores.max():.2f}" if len(self) else ""
        return f"{len(self)} pose{'' if len(self) == 1 else 's'}{best}"

    def draw(self, raw: np.ndarray) -> np.ndarray:
        """Draw each box with its score, and its points and the lines between them."""
        from convkit.results._draw import draw_poses

        return draw_poses(raw, self)

    def draw_beside(self, raw: np.ndarray, other: Result) -> np.ndarray:
        """Draw each; the boxes of those without a partner in ``other`` thick, in magenta, as ``only here``."""
        drawn = self.draw(raw)
        if not isinstance(other, Poses):
            return drawn
        return mark_lonely(drawn, self._detections(), other._detections())

    def _detections(self) -> Detections:
        return Detections(self.boxes, self.scores, np.zeros(len(self), np.int64), ("pose",))
