"""Output tensors into boxes in space, in metres before the camera."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convkit import Boxes3D, Decode, Result
from convkit_models.centernet._geometry import affine, transform
from convkit_models.centernet.tasks.ctdet import best, find_peaks, sigmoid

__all__ = ["LEAST", "SpaceDecode"]

LEAST = 0.2
"""The score that a box must exceed."""
NEAREST = 0.1
"""Metres before the camera of a corner that is behind it."""


class SpaceDecode(Decode):
    """Decode the heads, as the original does in ``ddd_decode`` and ``ddd_post_process``.

    The K best peaks of the heat map that score more than 0.2 become boxes. Depth, size and the angle of observation are
    read there; the calibration of the image, or else that of the specification, turns centre and depth into a place.
    Without the head ``wh``, for which the original has no box in the image, that is the box around the projected one.

    The original maps width and height of the box in the image as if they were a point, which adds the shift of the map
    to them; the specification's ``fixed`` mends that.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.stride: int = spec["stride"]
        self.topk: int = spec["topk"]
        self.fixed: bool = spec["fixed"]
        self.calibration = np.array(spec["calibration"], np.float32).reshape(3, 4)
        self.classes: Sequence[str] = tuple(spec["classes"])

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the boxes of each image of the batch; ``metas`` are those of the preprocess."""
        return [
            self._decode({name: value[index].astype(np.float32) for name, value in outputs.items()}, meta)
            for index, meta in enumerate(metas)
        ]

    def _decode(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Boxes3D:
        hm = np.ascontiguousarray(maps["hm"])
        _, rows, columns = hm.shape
        logits = hm.reshape(-1)
        peaks = find_peaks(hm, self.topk)
        peaks = peaks[best(logits[peaks], peaks, self.topk)]
        scores = sigmoid(logits[peaks])
        peaks, scores = peaks[scores > np.float32(LEAST)], scores[scores > np.float32(LEAST)]
        labels, cells = np.divmod(peaks, rows * columns)
        values = {name: planes.reshape(len(planes), -1)[:, cells].T for name, planes in maps.items() if name != "hm"}
        row, column = np.divmod(cells, columns)
        middle = np.stack([column, row], axis=1).astype(np.float32) + values.get("reg", np.float32(0.5))

        height, width = meta["input"]
        matrix = affine(meta["center"], meta["scale"], (width // self.stride, height // self.stride), inverse=True)
        centres = transform(middle, matrix)
        depth = 1 / (sigmoid(values["dep"][:, 0]) + np.float32(1e-6)) - 1
        alphas = _alphas(values["rot"])
        calibration = np.asarray(meta.get("calibration", self.calibration), np.float32).reshape(3, 4)
        places, headings = _in_space(calibration, centres, depth, values["dim"], alphas)
        sides = np.zeros_like(centres)
        if "wh" in values:
            sides = (values["wh"] * matrix[0, 0]).astype(np.float32) if self.fixed else transform(values["wh"], matrix)
        found = Boxes3D(
            boxes=np.concatenate([centres - sides / 2, centres + sides / 2], axis=1),
            scores=scores,
            class_ids=labels.astype(np.int64),
            sizes=values["dim"],
            places=places,
            headings=headings,
            alphas=alphas,
            calibration=calibration,
            classes=self.classes,
        )
        return found if "wh" in values else replace(found, boxes=_around(found))


def _in_space(
    matrix: np.ndarray, centres: np.ndarray, depth: np.ndarray, sizes: np.ndarray, alphas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle of each lower face [N, 3] and the rotation about the vertical axis [N]."""
    z = depth - matrix[2, 3]
    x = (centres[:, 0] * depth - matrix[0, 3] - matrix[0, 2] * z) / matrix[0, 0]
    y = (centres[:, 1] * depth - matrix[1, 3] - matrix[1, 2] * z) / matrix[1, 1] + sizes[:, 0] / 2
    headings = alphas + np.arctan2(centres[:, 0] - matrix[0, 2], matrix[0, 0])
    headings = np.where(headings > math.pi, headings - np.float32(2 * math.pi), headings)
    headings = np.where(headings < -math.pi, headings + np.float32(2 * math.pi), headings)
    return np.stack([x, y, z], axis=1).astype(np.float32), headings.astype(np.float32)


def _around(found: Boxes3D) -> np.ndarray:
    """Return float32 boxes [N, 4] around the projected corners; those behind the camera count as 0.1 m before it."""
    matrix = found.calibration.astype(np.float64)
    corners = found.corners()
    corners[..., 2] = np.maximum(corners[..., 2], NEAREST - matrix[2, 3])
    projected = np.concatenate([corners, np.ones((*corners.shape[:2], 1))], axis=2) @ matrix.T
    points = projected[..., :2] / projected[..., 2:]
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).astype(np.float32)


def _alphas(rotations: np.ndarray) -> np.ndarray:
    """Return the angle of observation [N] of eight values each: two bins of two logits, sine and cosine."""
    first = np.arctan2(rotations[:, 2], rotations[:, 3]) - math.pi / 2
    second = np.arctan2(rotations[:, 6], rotations[:, 7]) + math.pi / 2
    return np.asarray(np.where(rotations[:, 1] > rotations[:, 5], first, second), np.float32)
