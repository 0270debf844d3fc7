"""Synthetic scenes for proofs where the user gives no images."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

__all__ = ["synthetic_scenes"]


def synthetic_scenes(count: int, *, seed: int = 0, height: int = 480, width: int = 640) -> list[np.ndarray]:
    """Return ``count`` scenes (uint8, ``height`` x ``width`` x 3, BGR): shapes before a textured ground.

    Natural images have energy that falls with spatial frequency, and edges; white noise has
    neither, and a network fed with it tells little. So the ground is noise with a 1/f amplitude
    spectrum (Field 1987), and filled shapes with hard edges lie upon it.
    """
    rng = np.random.default_rng(seed)
    return [_scene(rng, height, width) for _ in range(count)]


def _scene(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / max(height, width))
    planes = []
    for _ in range(3):
        plane = np.fft.irfft2(amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape)), s=(height, width))
        planes.append(plane / plane.std())
    image = np.stack(planes, -1) * rng.uniform(25, 45) + rng.uniform(70, 180, 3)
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(4, 12))):
        _shape(rng, canvas)
    return canvas


def _shape(rng: np.random.Generator, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    centre = (int(rng.integers(width)), int(rng.integers(height)))
    size = max(2, int(rng.uniform(0.03, 0.25) * min(height, width)))
    colour: Any = tuple(int(value) for value in rng.integers(0, 256, 3))
    if rng.random() < 0.5:
        axes = (size, max(1, int(size * rng.uniform(0.3, 1))))
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        corners = cv2.boxPoints((centre, (2 * size, size * float(rng.uniform(0.5, 2))), float(rng.uniform(0, 90))))
        cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)
