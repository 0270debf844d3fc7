"""Output tensors into poses, in pixels of the original image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import Decode, Poses, Result
from convkit.processing import Join
from convkit_models.centernet._geometry import affine, transform
from convkit_models.centernet.tasks.ctdet import are_peaks, best, find_peaks, sigmoid

if TYPE_CHECKING:
    from convkit_models.centernet.tasks.multi_pose._device_decode import CudaPoseDecode

__all__ = ["FAR", "FARTHEST", "THRESHOLD", "PoseDecode"]

THRESHOLD = 0.1
"""The score that a joint's candidate must exceed."""
FARTHEST = 0.3
"""How far a candidate may be from the regressed joint, in longer sides of the box."""
FAR = -10000.0
"""Where the original puts candidates that do not count, on both axes."""


class PoseDecode(Decode):
    """Decode the heads or the rows of the graph, as the original does in ``multi_pose_decode``.

    The K best peaks of the heat map ``hm`` are people, with boxes as in ctdet. Each joint is where ``hps`` says, from
    the cell of the peak. Where the network has ``hm_hp``, its K best peaks of each joint that score more than 0.1 are
    candidates: the joint moves to the nearest one, if that lies in the person's box, no farther from the regressed
    place than 0.3 of the box's longer side.

    Peaks are found among the logits. Of equal ones the cell further up and left comes first, and of candidates that are
    equally near the better one.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.stride: int = spec["stride"]
        self.topk: int = spec["topk"]
        self.joints = tuple(spec["joints"])
        self.edges = tuple((int(first), int(second)) for first, second in spec["edges"])
        self._decode = {"heads": self._heads, "detections": self._rows}[spec["form"]]

    def on_device(self) -> CudaPoseDecode:
        """Return the same decode on the GPU.

        Raises:
            KernelArgumentError: more people are asked for than the GPU sorts.
        """
        from convkit_models.centernet.tasks.multi_pose._device_decode import CudaPoseDecode

        return CudaPoseDecode(self.spec)

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the poses of each image of the batch; ``metas`` are those of the preprocess."""
        return [
            self.single({name: value[index] for name, value in outputs.items()}, meta)
            for index, meta in enumerate(metas)
        ]

    def single(self, outputs: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Poses:
        """Return the poses of one image from outputs without the batch axis."""
        return self._decode({name: _floating(value) for name, value in outputs.items()}, meta)

    def joining(self, settings: Mapping[str, str]) -> Join:
        """Return what makes one result of the outputs of mirrored and scaled views.

        Raises:
            SettingError: a setting is unknown, the graph returns poses that it chose itself, or the joints have no
                sides that a mirror exchanges.
        """
        from convkit_models.centernet.tasks.multi_pose._join import JoinedPoses

        return JoinedPoses(self, settings)

    def from_probabilities(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Poses:
        """Return the poses of heads whose heat maps are probabilities."""
        return self._heads({name: _floating(value) for name, value in maps.items()}, meta, score=np.float32)

    def _heads(
        self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any], score: Callable[[np.ndarray], Any] = sigmoid
    ) -> Poses:
        hm = np.ascontiguousarray(maps["hm"])
        width = hm.shape[2]
        logits = hm.reshape(-1)
        peaks = find_peaks(hm, self.topk)
        cells = peaks[best(logits[peaks], peaks, self.topk)]
        row, column = np.divmod(cells, width)
        cell = np.stack([column, row], axis=1).astype(hm.dtype)
        sizes = _at(maps["wh"], cells)
        centres = cell + (_at(maps["reg"], cells) if "reg" in maps else hm.dtype.type(0.5))
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
        points = _at(maps["hps"], cells).reshape(len(cells), len(self.joints), 2) + cell[:, None]
        if "hm_hp" in maps:
            places, scores = self._candidates(maps, score)
            points = _snapped(points, corners, places, scores)
        return self._in_image(corners, score(logits[cells]), points, meta)

    def _candidates(
        self, maps: Mapping[str, np.ndarray], score: Callable[[np.ndarray], Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return places [J, M, 2] in cells and scores [J, M] of each joint's candidates, best first.

        Joints with fewer than K end with one that does not count, as the original has: of score -1, far away.
        """
        heat = np.ascontiguousarray(maps["hm_hp"])
        joints, height, width = heat.shape
        values = heat.reshape(-1)
        least = _LEAST if score is sigmoid else THRESHOLD - 1e-6
        high = np.flatnonzero(values > least)  # a little lower than the threshold, which scores decide
        high = high[score(values[high]) > np.float32(THRESHOLD)]
        peaks = high[are_peaks(heat, high)]
        joint, cells = np.divmod(peaks, height * width)
        order = np.lexsort((cells, -values[peaks], joint))
        joint, cells, peaks = joint[order], cells[order], peaks[order]
        counts = np.bincount(joint, minlength=joints)
        rank = np.arange(len(joint)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = rank < self.topk
        joint, cells, peaks, rank = joint[kept], cells[kept], peaks[kept], rank[kept]
        most = min(self.topk, int(counts.max(initial=0)) + 1)
        places = np.full((joints, most, 2), FAR, heat.dtype)
        scores = np.full((joints, most), -1, np.float32)
        row, column = np.divmod(cells, width)
        exact = np.stack([column, row], axis=1).astype(heat.dtype)
        exact += _at(maps["hp_offset"], cells) if "hp_offset" in maps else heat.dtype.type(0.5)
        places[joint, rank], scores[joint, rank] = exact, score(values[peaks])
        return places, scores

    def _rows(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Poses:
        rows = maps["poses"]
        cells = rows / rows.dtype.type(self.stride)
        return self._in_image(cells[:, :4], rows[:, 4], cells[:, 5:-1].reshape(len(rows), -1, 2), meta)

    def _in_image(self, corners: np.ndarray, scores: np.ndarray, points: np.ndarray, meta: Mapping[str, Any]) -> Poses:
        """Return the poses that have a score, mapped from cells to the image."""
        height, width = meta["input"]
        size = (width // self.stride, height // self.stride)
        matrix = affine(meta["center"], meta["scale"], size, inverse=True)
        found = scores > 0
        boxes = transform(corners[found].reshape(-1, 2, 2), matrix).reshape(-1, 4)
        return Poses(boxes, scores[found].astype(np.float32), transform(points[found], matrix), self.joints, self.edges)


_LEAST = math.log(THRESHOLD / (1 - THRESHOLD)) - 1e-4


def _snapped(points: np.ndarray, corners: np.ndarray, places: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the points [N, J, 2], each moved to the nearest of its joint's candidates where that is accepted."""
    square = points[:, :, None, 0] - places[:, :, 0]
    square *= square
    vertical = points[:, :, None, 1] - places[:, :, 1]
    vertical *= vertical
    square += vertical
    nearest = square.argmin(axis=2)
    joint = np.arange(len(places))
    place, score = places[joint, nearest], scores[joint, nearest]
    distance = np.sqrt(np.take_along_axis(square, nearest[..., None], axis=2)[..., 0])
    left, top, right, bottom = (corners[:, None, side] for side in range(4))
    reach = np.maximum(bottom - top, right - left) * corners.dtype.type(FARTHEST)
    x, y = place[..., 0], place[..., 1]
    rejected = (x < left) | (x > right) | (y < top) | (y > bottom) | (score < np.float32(THRESHOLD))
    rejected |= distance > reach
    return np.where(rejected[..., None], points, place)


def _at(planes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the values [N, C] of planes [C, H, W] at flat cells."""
    return np.asarray(planes.reshape(len(planes), -1)[:, cells].T)


def _floating(values: np.ndarray) -> np.ndarray:
    """Return float32 and float64 as they are, half precision as float32."""
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
