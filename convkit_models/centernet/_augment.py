"""Test-time augmentation: mirrored and scaled views of an image, as CenterNet's own detectors make them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from convkit import Prepared, Preprocess
from convkit.errors import ImageError, SettingError, suggest
from convkit_models.centernet._names import INPUT

__all__ = ["Augmentation", "AugmentedAffine"]

NAMES = ("flip", "scales", "nms", "suppression")
LARGEST = 8.0


@dataclass(frozen=True)
class Augmentation:
    """The settings: ``flip`` adds the mirrored image, ``scales`` are those of the image in turn.

    ``nms`` suppresses overlapping results even of a single scale. ``fixed`` leaves out the copies of results that the
    original's suppression returns.
    """

    flip: bool
    scales: tuple[float, ...]
    nms: bool
    fixed: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Augmentation:
        """Return the augmentation of settings by name, texts as on the command line or Python values.

        Raises:
            SettingError: a name is unknown, or a value cannot be obeyed.
        """
        for name in settings:
            if name not in NAMES:
                raise SettingError(
                    f"There is no augmentation {name!r}.", hint=suggest(name, NAMES) or f"There are {', '.join(NAMES)}."
                )
        suppression = str(settings.get("suppression", "official"))
        if suppression not in ("official", "fixed"):
            raise SettingError(f"suppression cannot be {suppression!r}.", hint="Give official or fixed.")
        found = cls(
            _yes(settings, "flip"), _scales(settings.get("scales", "1")), _yes(settings, "nms"), suppression == "fixed"
        )
        if not found.flip and found.scales == (1.0,) and not found.nms:
            raise SettingError(
                "These settings of test-time augmentation change nothing.", hint="Give flip, scales=0.5,1,1.5 or nms."
            )
        return found

    @property
    def suppresses(self) -> bool:
        """Whether overlapping results are suppressed."""
        return self.nms or len(self.scales) > 1

    @property
    def views(self) -> int:
        """The number of views of an image: of each scale one, or a plain and a mirrored one."""
        return len(self.scales) * (1 + self.flip)


class AugmentedAffine(Preprocess):
    """The views of an image: for each scale the image itself, and its mirrored tensor where that is asked for.

    An image of another scale is resized first. With ``fix_res`` the input then shows more or less of it than it would;
    with ``keep_res`` its size follows. ``meta`` has besides what it usually has ``test_scale`` and ``flipped``.
    """

    def __init__(self, host: Any, augmentation: Augmentation) -> None:
        self._host, self._augmentation = host, augmentation

    def __call__(self, image: np.ndarray) -> Prepared:
        """Return the first view with the others.

        Raises:
            ImageError: the array is no image, or an image of a scale would have no pixels.
        """
        views = []
        for scale in self._augmentation.scales:
            plain = self._view(image, scale)
            views.append(plain)
            if self._augmentation.flip:
                mirrored = plain.tensors[INPUT][:, :, ::-1]  # copied once, into the batch
                views.append(Prepared({INPUT: mirrored}, {**plain.meta, "flipped": True}))
        return Prepared(views[0].tensors, views[0].meta, tuple(views[1:]))

    def _view(self, image: np.ndarray, scale: float) -> Prepared:
        rows, columns = image.shape[:2]
        size = int(columns * scale), int(rows * scale)
        if min(size) < 1:
            raise ImageError(
                f"At the scale {scale:g} an image of {columns} x {rows} pixels has none.", hint="Leave the scale out."
            )
        resized = image if size == (columns, rows) else cv2.resize(image, size)
        prepared: Prepared = self._host.prepared(resized, side=max(rows, columns))
        return Prepared(prepared.tensors, {**prepared.meta, "test_scale": scale, "flipped": False})


def _yes(settings: Mapping[str, Any], name: str) -> bool:
    value = str(settings.get(name, "no")).lower()
    if value not in ("yes", "no", "true", "false"):
        raise SettingError(f"{name} cannot be {value!r}.", hint="Give yes or no.")
    return value in ("yes", "true")


def _scales(value: Any) -> tuple[float, ...]:
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        scales = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        scales = ()
    if not scales or not all(math.isfinite(scale) and 0 < scale <= LARGEST for scale in scales):
        raise SettingError(
            f"scales cannot be {value!r}.", hint=f"Give numbers up to {LARGEST:g}, for example scales=0.5,1,1.5."
        )
    if len(set(scales)) < len(scales):
        raise SettingError(f"scales {value!r} has one twice.", hint="Give each scale once.")
    return scales
