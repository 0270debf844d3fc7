"""Drawings of results as pictures inside the document, small enough together."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["BUDGET", "Picture", "embed"]

BUDGET = 2_500_000
"""Bytes that all pictures of a report may take."""
_TRIES = ((1280, 85), (800, 75), (480, 60))
"""Longest side in pixels and quality, one after the other until the pictures fit."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption; ``source`` is a data URI."""

    caption: str
    source: str


def embed(rows: Sequence[Sequence[tuple[str, np.ndarray]]], budget: int = BUDGET) -> tuple[list[list[Picture]], str]:
    """Return rows of captioned BGR images as JPEG, and why there are none (empty where there are)."""
    if not any(rows):
        return [], "Results of this model have no pictures, or none was drawn."
    for side, quality in _TRIES:
        found = [[Picture(caption, _uri(image, side, quality)) for caption, image in row] for row in rows if row]
        if sum(len(picture.source) for row in found for picture in row) <= budget:
            return found, ""
    return [], f"The pictures would take more than {budget / 1e6:.2g} MB and are left out."


def _uri(image: np.ndarray, side: int, quality: int) -> str:
    longest = max(image.shape[:2])
    if longest > side:
        scale = side / longest
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode('ascii')}"
