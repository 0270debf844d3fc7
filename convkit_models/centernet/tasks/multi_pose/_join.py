"""Poses of several views of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import Poses
from convkit.errors import SettingError
from convkit_models.centernet._augment import Augmentation
from convkit_models.centernet.tasks._joining import check_form, mean_maps, pairs, suppressed

if TYPE_CHECKING:
    from convkit_models.centernet.tasks.multi_pose._decode import PoseDecode

__all__ = ["JoinedPoses", "exchanged"]


class JoinedPoses:
    """Join views as the original does in ``process`` and ``merge_outputs`` of its detector.

    Of an image and its mirrored one the heat maps, as probabilities, sizes and joints are averaged, after left and
    right of these were exchanged; offsets are those of the image. Poses of several scales are put together, and soft
    suppression of their boxes thins them out.
    """

    def __init__(self, decode: PoseDecode, settings: Mapping[str, str]) -> None:
        self._decode, self._augmentation = decode, Augmentation.of(settings)
        check_form(self._augmentation, decode.spec["form"], ("heads",))
        self._order = exchanged(decode.joints) if self._augmentation.flip else []

    def __call__(self, outputs: Sequence[Mapping[str, np.ndarray]], metas: Sequence[Mapping[str, Any]]) -> Poses:
        """Return the poses in an image; ``outputs`` are those of its views."""
        mirrored = {"hm": _mirror, "wh": _mirror, "hps": self._mirror_points, "hm_hp": self._mirror_joints}
        parts = []
        for meta, plain, flipped in pairs(self._augmentation, outputs, metas):
            if flipped is None:
                found = self._decode.single(plain, meta)
            else:
                found = self._decode.from_probabilities(mean_maps(plain, flipped, mirrored), meta)
            rows = np.concatenate([found.boxes, found.points.reshape(len(found), 2 * len(self._decode.joints))], axis=1)
            rows /= np.float32(meta["test_scale"])
            parts.append(np.insert(rows, 4, found.scores, axis=1))
        rows = np.concatenate(parts)
        if self._augmentation.suppresses:
            rows, _ = suppressed(rows, np.zeros(len(rows), np.int64), fixed=self._augmentation.fixed)
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        points = rows[:, 5:].reshape(len(rows), len(self._decode.joints), 2)
        return Poses(rows[:, :4], rows[:, 4], points, self._decode.joints, self._decode.edges)

    def _mirror_points(self, planes: np.ndarray) -> np.ndarray:
        """Return the planes x, y of each joint, those of the other side mirrored."""
        points = planes[..., ::-1].reshape(len(self._order), 2, *planes.shape[1:])[self._order]
        return np.asarray((points * points.dtype.type([-1, 1])[:, None, None]).reshape(planes.shape))

    def _mirror_joints(self, planes: np.ndarray) -> np.ndarray:
        return np.asarray(planes[..., ::-1][self._order])


def _mirror(planes: np.ndarray) -> np.ndarray:
    return planes[..., ::-1]


def exchanged(joints: Sequence[str]) -> list[int]:
    """Return for each joint the number of the one that it is in a mirror: ``left eye`` is ``right eye``.

    Raises:
        SettingError: a joint lacks its other side, or none has one.
    """
    other = [_other_side(joint) for joint in joints]
    if all(name == joint for name, joint in zip(other, joints, strict=True)) or not set(other) <= set(joints):
        raise SettingError(
            "Nothing says which joints a mirror exchanges.",
            hint="Leave flip out; it is known for COCO's 17 joints only.",
        )
    return [list(joints).index(name) for name in other]


def _other_side(joint: str) -> str:
    sides = {"left": "right", "right": "left"}
    return " ".join(sides.get(word, word) for word in joint.split(" "))
