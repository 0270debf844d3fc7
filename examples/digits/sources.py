"""The raw material of the digits demo: handwritten digits and photographs, split into train and held-out.

Both come with scikit-learn, so nothing is downloaded. The digits are 8 x 8 scans; :class:`Glyphs` holds them
enlarged to smooth shapes that can be drawn at any size. The two splits share no digit and no pixel of a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CELLS", "MARGIN", "NAMES", "OVERSAMPLE", "Glyphs", "Split", "load_glyphs", "load_photos", "split_indices"]

Split = Literal["train", "heldout"]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CELLS = 8
"""A scan is 8 x 8 cells."""
MARGIN = 2
"""Empty cells added around a scan, so that its strokes fade out before the edge."""
OVERSAMPLE = 8
"""Samples a cell of the enlarged scan."""

_HELDOUT_SHARE = 0.2
_HELDOUT_WIDTH = 0.4  # the left part of a photograph; everything to the right of it is for training
_SPLIT_SEED = 20


@dataclass(frozen=True)
class Glyphs:
    """Digits ready to draw.

    ``ink`` is float32 ``[N, S, S]`` with ``S = (8 + 2 * MARGIN) * OVERSAMPLE``: how much ink covers the place, 0 to 1.
    ``labels`` (int64 ``[N]``) are the digits' values, ``samples`` (int64 ``[N]``) their numbers in scikit-learn's set.
    """

    ink: NDArray[np.float32]
    labels: NDArray[np.int64]
    samples: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def split_indices(labels: NDArray[np.int64], split: Split) -> NDArray[np.int64]:
    """Return the sample numbers of one split: a fixed fifth of every digit's samples is held out."""
    rng = np.random.default_rng(_SPLIT_SEED)
    chosen = []
    for digit in range(len(NAMES)):
        members = rng.permutation(np.flatnonzero(labels == digit))
        cut = round(len(members) * _HELDOUT_SHARE)
        chosen.append(members[:cut] if split == "heldout" else members[cut:])
    return np.sort(np.concatenate(chosen))


@cache
def load_glyphs(split: Split) -> Glyphs:
    """Load the digits of one split, enlarged with Keys' cubic convolution (a = -1/2; Keys 1981)."""
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    samples = split_indices(labels, split)
    padded = np.pad(scans[samples].reshape(-1, CELLS, CELLS) / 16.0, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    enlarge = _cubic_matrix(CELLS + 2 * MARGIN, OVERSAMPLE)
    ink = np.clip(enlarge @ padded @ enlarge.T, 0.0, 1.0)
    return Glyphs(ink.astype(np.float32), labels[samples].astype(np.int64), samples)


@cache
def load_photos(split: Split) -> tuple[NDArray[np.uint8], ...]:
    """Load the part of each bundled photograph that belongs to one split, uint8 ``[H, W, 3]`` in BGR."""
    photos = []
    for name in ("china.jpg", "flower.jpg"):
        data = np.frombuffer(files("sklearn.datasets.images").joinpath(name).read_bytes(), np.uint8)
        photo = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        border = round(photo.shape[1] * _HELDOUT_WIDTH)
        photos.append(np.ascontiguousarray(photo[:, :border] if split == "heldout" else photo[:, border:]))
    return tuple(photos)


def _cubic_matrix(size: int, factor: int) -> NDArray[np.float64]:
    """Return the ``[size * factor, size]`` matrix that enlarges one axis; outside the axis the signal is 0."""
    centres = (np.arange(size * factor) + 0.5) / factor - 0.5
    distance = np.abs(centres[:, None] - np.arange(size)[None])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    return np.where(distance <= 1.0, near, np.where(distance < 2.0, far, 0.0))
