"""Images in, classes out: NumPy and OpenCV only, so that an artifact runs without the network's code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convkit import Classification, Decode, Prepared, Preprocess, Result

__all__ = ["Classify", "GreyResize", "sample_digits"]

TILE = 8


class GreyResize(Preprocess):
    """Grey values 0..1 with light strokes, float32 [1, size, size], from an image of one digit."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.size, self.dark = int(spec["size"]), spec["ink"] == "dark"

    def __call__(self, image: np.ndarray) -> Prepared:
        """Resize by averaging areas, as the digits of the training set were made."""
        grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (self.size, self.size), interpolation=cv2.INTER_AREA)
        tensor = grey[None].astype(np.float32) / np.float32(255)
        return Prepared({"images": 1 - tensor if self.dark else tensor})


class Classify(Decode):
    """Probabilities by class from either output form."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.output, self.classes = spec["output"], list(spec["classes"])

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return one classification an image."""
        values = outputs[self.output].astype(np.float64)
        if self.output == "logits":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        return [Classification(row.astype(np.float32), self.classes) for row in values]


def sample_digits(count: int, seed: int, *, ink: str) -> list[np.ndarray]:
    """Return ``count`` scanned digits as uint8 [8, 8, 3], from the sheet that ``train.py`` wrote."""
    data = np.frombuffer((Path(__file__).parent / "samples.png").read_bytes(), np.uint8)
    sheet = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert sheet is not None, "samples.png is damaged"
    rows, columns = sheet.shape[0] // TILE, sheet.shape[1] // TILE
    order = np.random.default_rng(seed).permutation(rows * columns)
    corners = [divmod(int(order[index % len(order)]), columns) for index in range(count)]
    tiles = [sheet[TILE * y : TILE * (y + 1), TILE * x : TILE * (x + 1)] for y, x in corners]
    return [np.ascontiguousarray(255 - tile if ink == "dark" else tile) for tile in tiles]
