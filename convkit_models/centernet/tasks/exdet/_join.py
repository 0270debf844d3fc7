"""Boxes from extreme points of several views of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit import Detections
from convkit_models.centernet._augment import Augmentation
from convkit_models.centernet.tasks._joining import pairs
from convkit_models.centernet.tasks.exdet._decode import MOST_GROUPS, ExtremeDecode

__all__ = ["JoinedExtremes"]


class JoinedExtremes:
    """Join views as the original does: the boxes of all of them together are thinned out.

    Those of a mirrored image are mirrored back. Where there is none, the original mirrors the later half of the boxes.
    """

    def __init__(self, decode: ExtremeDecode, settings: Mapping[str, str]) -> None:
        self._decode, self._augmentation = decode, Augmentation.of(settings)

    def __call__(self, outputs: Sequence[Mapping[str, np.ndarray]], metas: Sequence[Mapping[str, Any]]) -> Detections:
        """Return the detections of an image; ``outputs`` are those of its views."""
        parts = []
        for meta, plain, flipped in pairs(self._augmentation, outputs, metas):
            late = self._decode.mirrored_from if flipped is None else MOST_GROUPS
            for maps, first in ((plain, late), (flipped, 0)):
                if maps is None:
                    continue
                rows, labels = self._decode.boxes(maps, meta, first)
                rows[:, :4] /= np.float32(meta["test_scale"])
                parts.append((rows, labels))
        rows, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
        return self._decode.thinned(rows, labels, fixed=self._decode.fixed or self._augmentation.fixed)
