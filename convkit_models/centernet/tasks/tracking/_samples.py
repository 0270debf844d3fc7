"""Arrays that look like what a network of CenterTrack sees: an image, the one before it, and a map of centres."""

from __future__ import annotations

import numpy as np

from convkit import ModelSpec, synthetic_scenes
from convkit_models.centernet._names import COCO_MEAN, COCO_STD, INPUT, PRE_HM, PRE_IMAGES

__all__ = ["tensors"]

SHIFT = 6
"""Pixels that the scene moves from one image to the next."""


def tensors(spec: ModelSpec, count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Return ``count`` inputs by name: normalised scenes that move, and Gaussian centres in 0..1, as in training."""
    sizes = {dim.name: dim.opt for dim in spec.dims}
    height, width = sizes["height"], sizes["width"]
    names = {tensor.name for tensor in spec.inputs}
    rng = np.random.default_rng(seed)
    found = []
    for scene in synthetic_scenes(count, seed=seed, height=height, width=width + SHIFT):
        arrays = {
            INPUT: _normalised(scene[:, SHIFT:]),
            PRE_IMAGES: _normalised(scene[:, :width]),
            PRE_HM: _centres(rng, height, width),
        }
        found.append({name: value for name, value in arrays.items() if name in names})
    return found


def _normalised(image: np.ndarray) -> np.ndarray:
    values = (image / 255.0 - np.array(COCO_MEAN)) / np.array(COCO_STD)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def _centres(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a map [1, H, W] with some Gaussians of height 1."""
    rows, columns = np.mgrid[:height, :width]
    heat = np.zeros((1, height, width), np.float32)
    for _ in range(4):
        y, x, radius = rng.integers(height), rng.integers(width), rng.uniform(2, 8)
        np.maximum(heat[0], np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2)), out=heat[0])
    return heat
