"""What is kept of the results of one image: a row of numbers for each box or pose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convkit.errors import ConversionError
from convkit.results import Boxes3D, Detections, Poses, Result

__all__ = ["Scheme"]

FIXED = 6
"""Columns of a box: two corners, score, class. The points of a pose are behind them."""


@dataclass(frozen=True)
class Scheme:
    """How the rows of an engine's results are laid out: boxes, or poses with these joints and lines between them.

    ``in_space`` says that the boxes are those in the image of boxes in space, of which nothing else is kept.
    """

    joints: tuple[str, ...] = ()
    edges: tuple[tuple[int, int], ...] = ()
    in_space: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, result: Result) -> Scheme:
        """Return the layout for results like this one.

        Raises:
            ConversionError: it has neither boxes nor poses.
        """
        if isinstance(result, Poses):
            return cls(tuple(result.joints), tuple((int(a), int(b)) for a, b in result.edges))
        if isinstance(result, Detections | Boxes3D):
            return cls(in_space=isinstance(result, Boxes3D))
        raise ConversionError(
            "This artifact does not detect boxes or poses.", hint="evaluate needs an artifact of a detector."
        )

    @property
    def columns(self) -> int:
        """The number of columns of a row."""
        return FIXED + 2 * len(self.joints)

    def rows(self, result: Result) -> np.ndarray:
        """Return a result as float64 [N, columns], from which `result` makes an equal one.

        Raises:
            ConversionError: it is of another kind.
        """
        if Scheme.of(result) != self:
            raise ConversionError(
                "The results of this artifact are not all of one kind.", hint="This is a fault of its decode."
            )
        assert isinstance(result, Boxes3D | Detections | Poses)
        classes = np.zeros(len(result)) if isinstance(result, Poses) else result.class_ids
        parts = [result.boxes.reshape(-1, 4), result.scores[:, None], np.asarray(classes)[:, None]]
        if isinstance(result, Poses):
            parts.append(result.points.reshape(len(result), 2 * len(self.joints)))
        return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)

    def result(self, rows: np.ndarray, classes: Sequence[str]) -> Detections | Poses:
        """Return the result that rows were made of; ``classes`` are the names of the classes."""
        boxes, scores = rows[:, :4].astype(np.float32), rows[:, 4].astype(np.float32)
        if not self.joints:
            return Detections(boxes, scores, rows[:, 5].astype(np.int64), tuple(classes))
        points = rows[:, FIXED:].astype(np.float32).reshape(len(rows), len(self.joints), 2)
        return Poses(boxes, scores, points, self.joints, self.edges)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as a JSON object."""
        return {"joints": list(self.joints), "edges": [list(edge) for edge in self.edges], "in_space": self.in_space}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Scheme:
        """Return the layout that `to_json` wrote."""
        edges = tuple((int(a), int(b)) for a, b in document["edges"])
        return cls(tuple(document["joints"]), edges, bool(document.get("in_space")))
