"""Boxes in space, seen by a calibrated camera: compared by matching their boxes in the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convkit.results._detections import BOX_FLOOR, MOST_BOX, MOST_SCORE, Detections, mark_lonely, match_boxes, worst
from convkit.results._result import SLACK, Difference, Result

__all__ = ["Boxes3D"]

SPACE_FLOOR = 1e-3
"""Metres, share of a distance or radians by which a figure may always differ."""
MOST_SPACE = 0.1
"""Metres (a tenth of the distance for places) and radians beyond which two boxes are not the same result."""
_EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


@dataclass(frozen=True)
class Boxes3D(Result):
    """Things on the ground before a camera, best first.

    ``boxes`` float32 [N, 4] as x1, y1, x2, y2 in pixels of the original image, ``scores`` float32 [N] in 0..1,
    ``class_ids`` int64 [N] as indices of ``classes``. ``sizes`` float32 [N, 3] as height, width, length and
    ``places`` float32 [N, 3], the middle of the lower face as x (right), y (down), z (ahead), are in metres in the
    coordinates of the camera; ``headings`` and ``alphas`` float32 [N] are the rotation about the vertical axis and as
    seen from the camera, in radians. ``calibration`` float32 [3, 4] projects points of the camera to pixels.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    sizes: np.ndarray
    places: np.ndarray
    headings: np.ndarray
    alphas: np.ndarray
    calibration: np.ndarray
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.scores)

    def class_name(self, class_id: int) -> str:
        """Return the name of a class, or its number where no name is known."""
        return self._detections().class_name(class_id)

    def above(self, score: float) -> Boxes3D:
        """Return those whose score is at least ``score``."""
        keep = self.scores >= score
        names = ("boxes", "scores", "class_ids", "sizes", "places", "headings", "alphas")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})

    def corners(self) -> np.ndarray:
        """Return the corners [N, 8, 3] in metres, float64: the lower face all around, then the upper one."""
        height, width, length = self.sizes.astype(np.float64).T[..., None]
        x = length / 2 * np.array([1, 1, -1, -1] * 2)
        y = height * np.array([0] * 4 + [-1] * 4)
        z = width / 2 * np.array([1, -1, -1, 1] * 2)
        cos, sin = np.cos(self.headings.astype(np.float64))[:, None], np.sin(self.headings.astype(np.float64))[:, None]
        return np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=-1) + self.places[:, None].astype(np.float64)

    def compare(self, other: Result, *, slack: float = SLACK) -> Difference:
        """Match boxes in the image as `Detections.compare` does, then compare what they are in space.

        ``max_place`` is relative to the distance (to a metre where it is less), ``max_size`` in metres, ``max_angle``
        in radians around the circle; each is the largest of all pairs.
        """
        if not isinstance(other, Boxes3D):
            return super().compare(other, slack=slack)
        found = match_boxes(self._detections(), other._detections(), slack)

        def apart(name: str) -> np.ndarray:
            ours, theirs = getattr(self, name)[found.rows], getattr(other, name)[found.columns]
            return np.asarray(np.abs(ours.astype(np.float64) - theirs))

        far = np.maximum(np.linalg.norm(self.places[found.rows].astype(np.float64), axis=1), 1.0)[:, None]
        angles = np.concatenate([apart("headings"), apart("alphas")]) % (2 * math.pi)
        return Difference(
            expected=len(self),
            matched=len(found.rows),
            ties=found.ties,
            unexplained=found.unexplained,
            figures={
                "max_box": found.shift,
                "max_score": found.score,
                "max_place": worst(apart("places") / far),
                "max_size": worst(apart("sizes")),
                "max_angle": worst(np.minimum(angles, 2 * math.pi - angles)),
            },
            floors={
                "max_box": BOX_FLOOR,
                "max_score": SLACK,
                **dict.fromkeys(("max_place", "max_size", "max_angle"), SPACE_FLOOR),
            },
            ceilings={
                "max_box": MOST_BOX,
                "max_score": MOST_SCORE,
                **dict.fromkeys(("max_place", "max_size", "max_angle"), MOST_SPACE),
            },
        )

    def to_json(self) -> dict[str, Any]:
        """Return ``{"boxes": […]}``, each with class_id, class_name, score, box, size, place, heading and alpha."""
        return {
            "boxes": [
                {
                    "class_id": int(self.class_ids[index]),
                    "class_name": self.class_name(int(self.class_ids[index])),
                    "score": float(self.scores[index]),
                    "box": [float(value) for value in self.boxes[index]],
                    "size": dict(zip(("height", "width", "length"), map(float, self.sizes[index]), strict=True)),
                    "place": [float(value) for value in self.places[index]],
                    "heading": float(self.headings[index]),
                    "alpha": float(self.alphas[index]),
                }
                for index in range(len(self))
            ]
        }

    def to_kitti(self) -> str:
        """Return the lines of a KITTI result file: truncation and occlusion are unknown there, -1."""
        rows = []
        for index in range(len(self)):
            name = self.class_name(int(self.class_ids[index])).replace(" ", "_")
            numbers = [self.alphas[index], *self.boxes[index], *self.sizes[index], *self.places[index]]
            numbers += [self.headings[index], self.scores[index]]
            rows.append(f"{name} -1 -1 " + " ".join(f"{float(number):.4f}" for number in numbers))
        return "".join(f"{row}\n" for row in rows)

    def summary(self) -> str:
        """Return for example ``3 boxes in space: 2 Car, 1 Cyclist``."""
        count, _, names = self._detections().summary().partition(": ")
        plural = "box" if len(self) == 1 else "boxes"
        return f"{count.split()[0]} {plural} in space" + (f": {names}" if names else "")

    def draw(self, raw: np.ndarray) -> np.ndarray:
        """Draw the edges of each box as the camera sees them, with class, score and distance."""
        from convkit.results._draw import draw_boxes3d

        return draw_boxes3d(raw, self, _EDGES)

    def draw_beside(self, raw: np.ndarray, other: Result) -> np.ndarray:
        """Draw each; the boxes of those without a partner in ``other`` thick, in magenta, as ``only here``."""
        drawn = self.draw(raw)
        if not isinstance(other, Boxes3D):
            return drawn
        return mark_lonely(drawn, self._detections(), other._detections())

    def _detections(self) -> Detections:
        return Detections(self.boxes, self.scores, self.class_ids, self.classes)
