"""Boxes with scores and classes: compared by matching, never row by row, with ties named as ties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convkit.results._result import SLACK, Difference, Result

__all__ = ["Detections", "box_iou"]

SAME_IOU = 0.9
SAME_PIXELS = 0.5
NEIGHBOURHOOD, NEIGHBOUR_IOU = 0.03, 0.5
"""How near neighbours are: by their centres, as a share of the extent of all, or by overlap where cells are large."""
BOX_FLOOR = 0.01
"""Pixels by which a coordinate may always differ."""
MOST_BOX, MOST_SCORE = 1.0, 0.05
"""Pixels and score beyond which two boxes are not the same result, whatever the network's precision is."""
TIE_SHARE = 0.1
"""Ties are rare; where more of an image's boxes look like ties than this, it is a fault that looks so."""
COARSE, CUT_SHARE, NO_SCORE = 0.01, 0.5, 0.1
"""Where scores are known to a hundredth or less, as in int8, up to half of an image's boxes may be ties at the cut, if
that lies below this score, and only those so much above it: whatever has more is an object, or may be one."""


@dataclass(frozen=True)
class Detections(Result):
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

    def compare(self, other: Result, *, slack: float = SLACK) -> Difference:
        """Match boxes of the same class one to one, the best overlap first.

        Two boxes are the same when their IoU is at least 0.9 or no coordinate differs by more than half a pixel. A box
        without a partner is a tie when its score is within ``slack`` of the lowest score kept, or when a neighbour of
        its class, near its centre or with an IoU of a half, has the same score within ``slack``: rounding then decides
        which of two cells is the peak. This
        excuses a tenth of the boxes and no more: boxes that are all too large have neighbours of the same score too.
        A ``slack`` of a hundredth or more says that the many boxes of no score cannot be told apart: where the cut is
        below a score of 0.1, up to half may then be ties at it, by that score at most, and the tenth counts among the
        boxes above them.
        ``max_box`` is the largest difference of a coordinate in pixels, ``max_score`` that of a score.
        """
        if not isinstance(other, Detections):
            return super().compare(other, slack=slack)
        matched = match_boxes(self, other, slack)
        return Difference(
            expected=len(self),
            matched=len(matched.rows),
            ties=matched.ties,
            unexplained=matched.unexplained,
            figures={"max_box": matched.shift, "max_score": matched.score},
            floors={"max_box": BOX_FLOOR, "max_score": SLACK},
            ceilings={"max_box": MOST_BOX, "max_score": MOST_SCORE},
        )

    def unmatched(self, other: Detections) -> Detections:
        """Return those that have no partner in another result of the same input, in the sense of `compare`."""
        lonely = lonely_boxes(self, other)
        return Detections(self.boxes[lonely], self.scores[lonely], self.class_ids[lonely], self.classes)

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

    def draw(self, raw: np.ndarray) -> np.ndarray:
        """Draw each box with its class and score."""
        from convkit.results._draw import draw_detections

        return draw_detections(raw, self)

    def draw_beside(self, raw: np.ndarray, other: Result) -> np.ndarray:
        """Draw each box; those without a partner in ``other`` thick, in magenta, as ``only here``."""
        from convkit.results._draw import draw_detections

        if not isinstance(other, Detections):
            return self.draw(raw)
        return draw_detections(raw, self, marked=set(lonely_boxes(self, other)))


def mark_lonely(canvas: np.ndarray, own: Detections, other: Detections) -> np.ndarray:
    """Return a copy of a drawing on which the boxes without a partner in ``other`` are drawn again, to stand out."""
    from convkit.results._draw import draw_detections

    left = own.unmatched(other)
    return draw_detections(canvas, left, marked=range(len(left)))


def lonely_boxes(own: Detections, other: Detections) -> list[int]:
    """Return the indices of the boxes without a partner in ``other``."""
    partners = {row for row, _ in _matched(own, other)[0]}
    return [index for index in range(len(own)) if index not in partners]


def _matched(first: Detections, second: Detections) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Return pairs of indices of the same boxes, and how far every box of one is from every one of the other."""
    same_class = first.class_ids[:, None] == second.class_ids[None, :]
    iou = box_iou(first.boxes, second.boxes)
    shift = np.abs(first.boxes[:, None, :] - second.boxes[None, :, :]).max(-1, initial=0.0)
    allowed = same_class & ((iou >= SAME_IOU) | (shift <= SAME_PIXELS))
    closeness = np.where(allowed, iou - shift / (1 + shift), -np.inf)
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = set(range(len(first))), set(range(len(second)))
    for flat in np.argsort(-closeness, axis=None, kind="stable"):
        row, column = divmod(int(flat), max(len(second), 1))
        if closeness[row, column] == -np.inf or not free_rows:
            break
        if row in free_rows and column in free_columns:
            free_rows.discard(row)
            free_columns.discard(column)
            pairs.append((row, column))
    return pairs, shift


@dataclass(frozen=True)
class Matching:
    """Which boxes are the same: pairs of ``rows`` and ``columns``, and what became of the others.

    ``shift`` and ``score`` are the largest differences of a coordinate and of a score in any pair.
    """

    rows: np.ndarray
    columns: np.ndarray
    ties: int
    unexplained: int
    shift: float
    score: float


def match_boxes(one: Detections, other: Detections, slack: float) -> Matching:
    """Match boxes as `Detections.compare` says."""
    pairs, shift = _matched(one, other)
    free_rows = set(range(len(one))) - {row for row, _ in pairs}
    free_columns = set(range(len(other))) - {column for _, column in pairs}
    ties = unexplained = 0
    for own, theirs, free in ((one, other, free_rows), (other, one, free_columns)):
        excused = _excused(own, theirs, free, slack)
        ties += excused
        unexplained += len(free) - excused
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    scores = np.abs(one.scores[rows].astype(np.float64) - other.scores[columns])
    return Matching(rows, columns, ties, unexplained, float(shift[rows, columns].max(initial=0.0)), worst(scores))


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU [N, M] of boxes [N, 4] and [M, 4]; corners may come in any order."""
    a, b = _ordered(first)[:, None, :], _ordered(second)[None, :, :]
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    overlap = size[..., 0] * size[..., 1]
    union = _area(a) + _area(b) - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def _ordered(boxes: np.ndarray) -> np.ndarray:
    boxes = boxes.astype(np.float64)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1))


def _excused(own: Detections, other: Detections, free: Iterable[int], slack: float) -> int:
    """Return how many of the boxes without a partner are ties; none where there are too many for that."""
    left = [index for index in free if np.isfinite(own.boxes[index]).all()]
    coarse = slack >= COARSE and min(own.scores.min(initial=1.0), other.scores.min(initial=1.0)) <= NO_SCORE
    within = min(slack, NO_SCORE) if coarse else slack
    cut = [index for index in left if _at_the_cut(own, other, index, within)]
    near = sum(_has_neighbour(own, other, index, slack) for index in left if index not in cut)
    if not coarse:
        tied = len(cut) + near
        return tied if tied <= TIE_SHARE * len(own) else 0
    above = sum(not _at_the_cut(own, other, index, within) for index in range(len(own)))
    return (len(cut) if len(cut) <= CUT_SHARE * len(own) else 0) + (near if near <= max(1, TIE_SHARE * above) else 0)


def _at_the_cut(own: Detections, other: Detections, index: int, slack: float) -> bool:
    """Tell whether the box only just made it into its own list, so that the other could lose it."""
    if len(own) != len(other):
        return False
    return bool(own.scores[index] <= max(own.scores.min(), other.scores.min()) + slack)


def _has_neighbour(own: Detections, other: Detections, index: int, slack: float) -> bool:
    same = (other.class_ids == own.class_ids[index]) & (np.abs(other.scores - own.scores[index]) <= slack)
    if not same.any():
        return False
    centres = (other.boxes[:, :2] + other.boxes[:, 2:]) / 2
    centre = (own.boxes[index, :2] + own.boxes[index, 2:]) / 2
    reach = NEIGHBOURHOOD * max(float(np.ptp(np.concatenate([centres, centre[None]]), axis=0).max()), 1.0)
    near = np.linalg.norm(centres[same] - centre, axis=1) <= reach
    return bool((near | (box_iou(own.boxes[[index]], other.boxes[same])[0] >= NEIGHBOUR_IOU)).any())


def worst(differences: np.ndarray) -> float:
    """Return the largest difference, infinity where one is no number."""
    return float(np.where(np.isnan(differences), np.inf, differences).max(initial=0.0))
