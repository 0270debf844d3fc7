"""Output tensors into boxes that four extreme points and a centre agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit import Decode, Detections, Result
from convkit.processing import Join
from convkit_models.centernet._geometry import affine, transform
from convkit_models.centernet.tasks._joining import MOST, best_hundred, suppressed
from convkit_models.centernet.tasks.ctdet import best, find_peaks, sigmoid
from convkit_models.centernet.tasks.exdet._aggregate import aggregate
from convkit_models.centernet.tasks.exdet._groups import SIDES, Points, best_groups

__all__ = ["MOST_BOXES", "MOST_GROUPS", "ExtremeDecode"]

THRESHOLD = 0.1
"""The lowest score of an extreme point, and of a centre."""
MOST_GROUPS = 1000
"""The number of groups of points that become boxes."""
MOST_BOXES = MOST


class ExtremeDecode(Decode):
    """Decode the heads, as the original does in ``exct_decode``, ``exdet_post_process`` and ``merge_outputs``.

    The K best peaks of each of the four heat maps are extreme points. Four of them of one class, none beyond the side
    of another, with a centre between them that scores enough, are a group. Its score is a sixth of those of the points
    and twice that of the centre. The 1000 best become boxes, which soft suppression within a class thins out; the best
    100 remain. Equal scores are in the order of their points: top, left, bottom, right.

    The original has two faults, which the specification's ``fixed`` mends: it mirrors the boxes of the groups from the
    501st on, which is right for flipped images only, and returns copies that suppression left behind. With
    ``aggregate``, a weight, the strength of the edge is added to each extreme point before the peaks are looked for.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.stride: int = spec["stride"]
        self.topk: int = spec["topk"]
        self.fixed: bool = spec["fixed"]
        self.aggregate: float = spec.get("aggregate", 0.0)
        self.classes: Sequence[str] = tuple(spec["classes"])

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the detections of each image of the batch; ``metas`` are those of the preprocess."""
        return [
            self._decode({name: value[index].astype(np.float32) for name, value in outputs.items()}, meta)
            for index, meta in enumerate(metas)
        ]

    def joining(self, settings: Mapping[str, str]) -> Join:
        """Return what makes one result of the outputs of mirrored and scaled views.

        Raises:
            SettingError: a setting is unknown.
        """
        from convkit_models.centernet.tasks.exdet._join import JoinedExtremes

        return JoinedExtremes(self, settings)

    def _decode(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Result:
        return self.thinned(*self.boxes(maps, meta, self.mirrored_from))

    @property
    def mirrored_from(self) -> int:
        """The number of the group from which on the original mirrors boxes, beyond the last one where it is mended."""
        return MOST_GROUPS if self.fixed else MOST_GROUPS // 2

    def boxes(
        self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any], from_group: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows [N, 5] of box and score of the groups of an image, and their classes; maps lack the batch axis.

        Those from a group on are mirrored.
        """
        corners, scores, labels = self._groups({name: value.astype(np.float32) for name, value in maps.items()})
        height, width = meta["input"]
        size = (width // self.stride, height // self.stride)
        late = corners[from_group:]
        late[:, [0, 2]] = size[0] - late[:, [2, 0]]
        matrix = affine(meta["center"], meta["scale"], size, inverse=True)
        boxes = transform(corners.reshape(-1, 2, 2), matrix).reshape(-1, 4)
        return np.column_stack([boxes, scores]).astype(np.float32), labels

    def thinned(self, rows: np.ndarray, labels: np.ndarray, *, fixed: bool | None = None) -> Detections:
        """Return the detections that suppression leaves of rows; without copies where ``fixed``."""
        rows, ids = suppressed(rows, labels, fixed=self.fixed if fixed is None else fixed)
        order = best_hundred(rows[:, 4])
        return Detections(rows[order, :4], rows[order, 4], ids[order], self.classes)

    def _groups(self, maps: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return corners [N, 4] in cells, scores and classes of the best groups, best first."""
        points = {side: self._points(maps, side) for side in SIDES}
        centre = sigmoid(maps["hm_c"])
        labels = None
        if len(maps["hm_t"]) == 1:  # one for all classes: the best class of each cell
            labels, centre = centre.argmax(axis=0), centre.max(axis=0, keepdims=True)
        groups, scores = best_groups(points, centre, np.float32(THRESHOLD), MOST_GROUPS)
        top, left, bottom, right = (points[side] for side in SIDES)
        t, l, b, r = groups.T  # noqa: E741
        ids = top.label[t] if labels is None else labels[(top.y[t] + bottom.y[b]) // 2, (left.x[l] + right.x[r]) // 2]
        corners = np.stack([left.exact_x[l], top.exact_y[t], right.exact_x[r], bottom.exact_y[b]], axis=1)
        return corners, scores, ids

    def _points(self, maps: Mapping[str, np.ndarray], side: str) -> Points:
        """Return the extreme points of a side that score enough: of the K best those."""
        heat = np.ascontiguousarray(maps[f"hm_{side}"])
        _, height, width = heat.shape
        if self.aggregate:
            heat = aggregate(sigmoid(heat), 2 if side in "tb" else 1, self.aggregate)
            peaks = find_peaks(heat, heat.size)  # all: those above 1 count as equal
            scores = np.minimum(heat.reshape(-1)[peaks], np.float32(1))
            order = best(scores, peaks, self.topk)
            peaks, scores = peaks[order], scores[order]
        else:
            flat = heat.reshape(-1)
            peaks = find_peaks(heat, self.topk)
            peaks = peaks[best(flat[peaks], peaks, self.topk)]
            scores = sigmoid(flat[peaks])
        peaks, scores = peaks[scores >= np.float32(THRESHOLD)], scores[scores >= np.float32(THRESHOLD)]
        label, cells = np.divmod(peaks, height * width)
        y, x = np.divmod(cells, width)
        offset = np.full((2, len(cells)), 0.5, np.float32)
        if f"reg_{side}" in maps:
            offset = maps[f"reg_{side}"].reshape(2, -1)[:, cells]
        exact_x, exact_y = x.astype(np.float32) + offset[0], y.astype(np.float32) + offset[1]
        return Points(label, x, y, exact_x, exact_y, scores)
