"""Comparing decoded results: by matching, never row by row, with ties named as ties."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convkit.results import Classification, Detections, Result

__all__ = ["MatchError", "box_iou", "compare_results", "json_difference", "match_detections", "rows_to_detections"]

SAME_IOU = 0.9
SAME_PIXELS = 0.5
NEIGHBOURHOOD = 0.03
SCORE_SLACK = 1e-4
TIE_SHARE = 0.1
"""Ties are rare; where more of an image's boxes look like ties than this, it is a fault that looks so."""


@dataclass(frozen=True)
class MatchError:
    """How the results of two runs differ.

    ``unexplained`` counts results that have no partner of the same class and no tie to excuse it,
    ``ties`` those that have one: a score at the cut of the top-K, or a neighbour with the same
    score. ``max_box`` is the largest difference of a coordinate in pixels and ``max_score`` that of
    a score, both over matched pairs.
    """

    expected: int
    matched: int
    ties: int
    unexplained: int
    max_box: float = 0.0
    max_score: float = 0.0
    note: str = ""

    def __bool__(self) -> bool:
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the figures as a JSON object."""
        return asdict(self)


def compare_results(reference: Result, candidate: Result, *, score_slack: float = SCORE_SLACK) -> MatchError:
    """Compare two results of one image, whatever their kind."""
    if isinstance(reference, Detections) and isinstance(candidate, Detections):
        return match_detections(reference, candidate, score_slack=score_slack)
    if isinstance(reference, Classification) and isinstance(candidate, Classification):
        return _match_classes(reference, candidate, score_slack)
    return _match_json(reference, candidate, score_slack)


def match_detections(reference: Detections, candidate: Detections, *, score_slack: float = SCORE_SLACK) -> MatchError:
    """Match boxes of the same class one to one, the best overlap first.

    Two boxes are the same when their IoU is at least 0.9 or no coordinate differs by more than
    half a pixel. A box without a partner is a tie when its score lies within ``score_slack`` of
    the lowest score kept, or when an unmatched or matched neighbour of its class has the same
    score within ``score_slack``: rounding then decides which of two cells is the peak. This excuses
    a tenth of the boxes and no more: boxes that are all too large have neighbours of the same score too.
    """
    same_class = reference.class_ids[:, None] == candidate.class_ids[None, :]
    iou = box_iou(reference.boxes, candidate.boxes)
    shift = np.abs(reference.boxes[:, None, :] - candidate.boxes[None, :, :]).max(-1, initial=0.0)
    allowed = same_class & ((iou >= SAME_IOU) | (shift <= SAME_PIXELS))
    closeness = np.where(allowed, iou - shift / (1 + shift), -np.inf)
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = set(range(len(reference))), set(range(len(candidate)))
    for flat in np.argsort(-closeness, axis=None, kind="stable"):
        row, column = divmod(int(flat), max(len(candidate), 1))
        if closeness[row, column] == -np.inf or not free_rows:
            break
        if row in free_rows and column in free_columns:
            free_rows.discard(row)
            free_columns.discard(column)
            pairs.append((row, column))
    ties = unexplained = 0
    for own, other, free in ((reference, candidate, free_rows), (candidate, reference, free_columns)):
        tied = sum(
            np.isfinite(own.boxes[index]).all()
            and (_at_the_cut(own, other, index, score_slack) or _has_neighbour(own, other, index, score_slack))
            for index in free
        )
        excused = tied if tied <= TIE_SHARE * len(own) else 0
        ties += excused
        unexplained += len(free) - excused
    rows, columns = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    scores = np.abs(reference.scores[rows].astype(np.float64) - candidate.scores[columns])
    return MatchError(
        expected=len(reference),
        matched=len(pairs),
        ties=ties,
        unexplained=unexplained,
        max_box=float(shift[rows, columns].max(initial=0.0)),
        max_score=_worst(scores),
    )


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the IoU [N, M] of boxes [N, 4] and [M, 4]; corners may come in any order."""
    a, b = _ordered(first)[:, None, :], _ordered(second)[None, :, :]
    size = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    overlap = size[..., 0] * size[..., 1]
    union = _area(a) + _area(b) - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0))


def rows_to_detections(rows: np.ndarray) -> Detections:
    """Return rows [N, 6] of (x1, y1, x2, y2, score, class) as detections."""
    return Detections(rows[:, :4], rows[:, 4], np.rint(rows[:, 5]).astype(np.int64))


def _ordered(boxes: np.ndarray) -> np.ndarray:
    boxes = boxes.astype(np.float64)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1))


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
    return bool((np.linalg.norm(centres[same] - centre, axis=1) <= reach).any())


def _match_classes(reference: Classification, candidate: Classification, slack: float) -> MatchError:
    difference = np.abs(reference.probabilities.astype(np.float64) - candidate.probabilities)
    best, other = int(np.argmax(reference.probabilities)), int(np.argmax(candidate.probabilities))
    tie = best != other and abs(float(reference.probabilities[best] - reference.probabilities[other])) <= slack
    agreed = best == other
    return MatchError(1, int(agreed), int(tie), int(not agreed and not tie), max_score=_worst(difference))


def _worst(differences: np.ndarray) -> float:
    """Return the largest difference, infinity where one is no number."""
    return float(np.where(np.isnan(differences), np.inf, differences).max(initial=0.0))


def _match_json(reference: Result, candidate: Result, slack: float) -> MatchError:
    note = json_difference(reference.to_json(), candidate.to_json(), slack, "result")
    return MatchError(1, int(not note), 0, int(bool(note)), note=note)


def json_difference(expected: Any, actual: Any, slack: float, where: str) -> str:
    """Return where two JSON values first differ by more than rounding, or an empty string."""
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        return next(
            filter(None, (json_difference(expected[k], actual[k], slack, f"{where}.{k}") for k in expected)), ""
        )
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = enumerate(zip(expected, actual, strict=True))
        return next(filter(None, (json_difference(a, b, slack, f"{where}[{i}]") for i, (a, b) in pairs)), "")
    if isinstance(expected, float) and isinstance(actual, float | int):
        return "" if abs(expected - actual) <= slack * max(1.0, abs(expected)) else f"{where}: {expected} and {actual}"
    return "" if expected == actual else f"{where}: {expected!r} and {actual!r}"
