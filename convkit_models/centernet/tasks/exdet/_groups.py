"""The best groups of four extreme points and a centre, found without a look at all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["SIDES", "Points", "best_groups"]

SIDES = "tlbr"


@dataclass(frozen=True)
class Points:
    """Extreme points of one side, best first: class, cell, exact place in cells, and score (float32)."""

    label: np.ndarray
    x: np.ndarray
    y: np.ndarray
    exact_x: np.ndarray
    exact_y: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def best_groups(
    points: Mapping[str, Points], centre: np.ndarray, least_centre: np.float32, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the points of the best groups, int64 [N, 4] in the order of `SIDES`, and their scores.

    A group are four points of one class, none beyond the side of another, with a centre between them of at least
    ``least_centre`` in ``centre``, float32 [C, H, W]. The best comes first; of equal ones that with the first points.

    Of up to K^4 groups those of a top and a bottom point score no more than these would with the best points of the
    other sides that go with them, and the best centre of the row between them. In the order of this bound the pairs are
    looked at, until no other one can give a better group. Sums of float32, taken in the same order, do not fall where
    one of the terms rises: the bound is exact, and nothing is lost to rounding.
    """
    top, left, bottom, right = (points[side] for side in SIDES)
    best, rows = _Best(most, max(map(len, points.values()))), centre.max(axis=2)
    pairs, bounds = _pairs(top, left, bottom, right, rows, least_centre)
    for (t, first_left, b, first_right), bound in zip(pairs.tolist(), bounds.tolist(), strict=True):
        if bound < best.least:
            break
        if bound == best.least and best.key(t, first_left, b, first_right) > best.last:
            continue
        lefts = np.flatnonzero(_goes_left(left, top, t, bottom, slice(b, b + 1))[0])
        rights = np.flatnonzero(_goes_right(right, top, t, bottom, slice(b, b + 1))[0])
        y = (top.y[t] + bottom.y[b]) // 2
        row = centre[top.label[t], y]

        def score(ones: np.ndarray, others: np.ndarray, middle: np.ndarray, t: int = t, b: int = b) -> np.ndarray:
            return _score(top.scores[t], left.scores[ones], bottom.scores[b], right.scores[others], middle)

        peak = rows[top.label[t], y]
        lefts = lefts[score(lefts, rights[:1], peak) >= best.least]
        rights = rights[score(lefts[:1], rights, peak) >= best.least]
        lefts = lefts[:, None]
        middle = row[(left.x[lefts] + right.x[rights]) // 2]
        scores = score(lefts, rights, middle)
        best.add(scores, best.key(t, lefts, b, rights), middle >= least_centre)
    return best.sorted()


def _pairs(
    top: Points, left: Points, bottom: Points, right: Points, rows: np.ndarray, least_centre: np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Return int64 [N, 4] of each top and bottom point with the best left and right one for them, and their bounds.

    The highest bound comes first. ``rows`` are the best centres of each class and row.
    """
    found, bounds = [np.zeros((0, 4), np.int64)], [np.zeros(0, np.float32)]
    for t in range(len(top)):
        lefts = _goes_left(left, top, t, bottom, slice(None))
        rights = _goes_right(right, top, t, bottom, slice(None))
        peaks = rows[top.label[t], (top.y[t] + bottom.y) // 2]
        possible = (bottom.label == top.label[t]) & (bottom.y >= top.y[t]) & (peaks >= least_centre)
        b = np.flatnonzero(possible & lefts.any(axis=1) & rights.any(axis=1))
        if not len(b):  # a side may have no point at all
            continue
        first, last = lefts[b].argmax(axis=1), rights[b].argmax(axis=1)
        found.append(np.stack([np.full_like(b, t), first, b, last], axis=1))
        bounds.append(_score(top.scores[t], left.scores[first], bottom.scores[b], right.scores[last], peaks[b]))
    pairs, limits = np.concatenate(found), np.concatenate(bounds)
    order = np.argsort(-limits, kind="stable")
    return pairs[order], limits[order]


def _goes_left(left: Points, top: Points, t: int, bottom: Points, which: slice) -> np.ndarray:
    """Return bool [bottom points, left points]: those of the class between the two, and not right of either."""
    x = np.minimum(top.x[t], bottom.x[which])
    return np.asarray(_between(left, top, t, bottom, which) & (left.x <= x[:, None]))


def _goes_right(right: Points, top: Points, t: int, bottom: Points, which: slice) -> np.ndarray:
    """Return bool [bottom points, right points]: those of the class between the two, and not left of either."""
    x = np.maximum(top.x[t], bottom.x[which])
    return np.asarray(_between(right, top, t, bottom, which) & (right.x >= x[:, None]))


def _between(points: Points, top: Points, t: int, bottom: Points, which: slice) -> np.ndarray:
    mine = (points.label == top.label[t]) & (points.y >= top.y[t])
    return np.asarray(mine & (points.y <= bottom.y[which][:, None]))


def _score(top: np.ndarray, left: np.ndarray, bottom: np.ndarray, right: np.ndarray, middle: np.ndarray) -> np.ndarray:
    return np.asarray((top + left + bottom + right + np.float32(2) * middle) / np.float32(6))


class _Best:
    """The best groups so far. Once there are enough, ``least`` is the score of the last one and ``last`` its key."""

    def __init__(self, most: int, base: int) -> None:
        self.least, self.last = -1.0, 0
        self._most, self._base = most, base
        self._scores, self._keys = np.zeros(0, np.float32), np.zeros(0, np.int64)

    def key(self, top: Any, left: Any, bottom: Any, right: Any) -> Any:
        """Return numbers that are ordered as the points are, one after the other."""
        return ((top * self._base + left) * self._base + bottom) * self._base + right

    def add(self, scores: np.ndarray, keys: np.ndarray, good: np.ndarray) -> None:
        """Add those groups that are good and may be among the best."""
        if self.least >= 0:
            good &= (scores > self.least) | ((scores == self.least) & (keys < self.last))
        self._scores = np.concatenate([self._scores, scores[good]])
        self._keys = np.concatenate([self._keys, keys[good]])
        if len(self._scores) >= (2 * self._most if self.least >= 0 else self._most):
            self._keep_best()
            self.least, self.last = float(self._scores[-1]), int(self._keys[-1])

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the points of the best groups, and their scores."""
        self._keep_best()
        numbers = np.unravel_index(self._keys, (self._base,) * 4)
        return np.stack(numbers, axis=1), self._scores

    def _keep_best(self) -> None:
        if len(self._scores) > self._most:
            least = np.partition(self._scores, -self._most)[-self._most]
            self._scores, self._keys = self._scores[self._scores >= least], self._keys[self._scores >= least]
        order = np.lexsort((self._keys, -self._scores))[: self._most]
        self._scores, self._keys = self._scores[order], self._keys[order]
