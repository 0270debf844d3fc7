"""Boxes of several views of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import Detections
from convkit_models.centernet._augment import Augmentation
from convkit_models.centernet.tasks._joining import MOST, best_hundred, check_form, mean_maps, pairs, suppressed

if TYPE_CHECKING:
    from convkit_models.centernet.tasks.ctdet._decode import CtdetDecode

__all__ = ["JoinedBoxes"]


def _mirror(planes: np.ndarray) -> np.ndarray:
    return planes[..., ::-1]


class JoinedBoxes:
    """Join views as the original does in ``process`` and ``merge_outputs`` of its detector.

    Of an image and its mirrored one the heat map, as probabilities, and the sizes are averaged; offsets are those of
    the image. Boxes of several scales are put together, and soft suppression within a class thins them out. The best
    hundred remain, or ``topk`` where that is more.
    """

    def __init__(self, decode: CtdetDecode, settings: Mapping[str, str]) -> None:
        self._decode, self._augmentation = decode, Augmentation.of(settings)
        check_form(self._augmentation, decode.spec["form"], ("heads", "tensorrt-pro"))

    def __call__(self, outputs: Sequence[Mapping[str, np.ndarray]], metas: Sequence[Mapping[str, Any]]) -> Detections:
        """Return the detections of an image; ``outputs`` are those of its views."""
        parts = []
        for meta, plain, flipped in pairs(self._augmentation, outputs, metas):
            if flipped is None:
                found = self._decode.single(plain, meta)
            else:
                own, other = (self._decode.maps(each, meta) for each in (plain, flipped))
                joined = mean_maps(own, other, {"hm": _mirror, "wh": _mirror})
                found = self._decode.from_probabilities(joined, meta)
            boxes = found.boxes / np.float32(meta["test_scale"])
            parts.append((np.column_stack([boxes, found.scores]), found.class_ids))
        rows, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
        if self._augmentation.suppresses:
            rows, labels = suppressed(rows, labels, fixed=self._augmentation.fixed)
        order = best_hundred(rows[:, 4], max(MOST, self._decode.topk))
        rows, labels = rows[order], labels[order]
        return Detections(rows[:, :4], rows[:, 4], labels, self._decode.classes)
