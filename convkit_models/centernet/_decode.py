"""Output tensors into boxes, in pixels of the original image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import cv2
import numpy as np

from convkit import Detections, Result
from convkit_models.centernet._geometry import affine, transform

__all__ = ["CtdetDecode", "find_peaks", "max_pool"]

_ROW = np.ones((1, 3), np.uint8)
_SQUARE = np.ones((3, 3), np.uint8)


class CtdetDecode:
    """Decode any of the output forms; see ``_forms`` for what they are.

    The K best peaks of the heat map become boxes; a cell may give several, of different classes.
    Peaks are found among the logits, so that all forms agree, and only they pass the sigmoid. The
    order is fixed: higher logit first, then lower class, then the cell further up and left. Fewer
    than K peaks give fewer boxes. As in the official code, boxes are neither clipped to the image
    nor cut off at a score, and there is no suppression of overlapping ones.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.stride: int = spec["stride"]
        self.topk: int = spec["topk"]
        self.sizes_per_class: bool = spec["sizes_per_class"]
        self.classes: Sequence[str] = tuple(spec["classes"])
        self._decode = {"heads": self._heads, "tutorial": self._tutorial, "detections": self._rows}[spec["form"]]

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the detections of each image of the batch; ``metas`` are those of the preprocess."""
        return [
            self._decode({name: _floating(value[index]) for name, value in outputs.items()}, meta)
            for index, meta in enumerate(metas)
        ]

    def _heads(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        hm, wh = np.ascontiguousarray(maps["hm"]), maps["wh"]
        _, height, width = hm.shape
        logits = hm.reshape(-1)
        peaks = find_peaks(hm, self.topk)
        peaks = peaks[_best(logits[peaks], peaks, self.topk)]
        labels, cells = np.divmod(peaks, height * width)
        first = 2 * labels if self.sizes_per_class else np.zeros_like(labels)
        sizes = np.stack([wh.reshape(len(wh), -1)[first + axis, cells] for axis in (0, 1)], axis=1)
        offsets = maps["reg"].reshape(2, -1)[:, cells].T if "reg" in maps else np.full_like(sizes, 0.5)
        return self._boxes(labels, cells, width, logits[peaks], offsets, sizes, meta)

    def _tutorial(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        rows = maps["output"]
        classes, width = (rows.shape[1] - 4) // 2, meta["input"][1] // self.stride
        logits, pooled = rows[:, 4 : 4 + classes], rows[:, 4 + classes :]
        floor = _floor(logits.reshape(-1, width, classes)[::4], self.topk)
        cells, labels = np.divmod(np.flatnonzero(logits >= floor), classes)
        found = logits[cells, labels] == pooled[cells, labels]
        cells, labels = cells[found], labels[found]
        if len(cells) < self.topk:
            cells, labels = np.divmod(np.flatnonzero(logits == pooled), classes)
        values = logits[cells, labels]
        best = _best(values, labels * len(rows) + cells, self.topk)
        labels, cells = labels[best], cells[best]
        return self._boxes(labels, cells, width, values[best], rows[cells, :2], rows[cells, 2:4], meta)

    def _rows(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        rows = maps["detections"]
        return self._in_image(rows[:, :4] / rows.dtype.type(self.stride), rows[:, 4], rows[:, 5], meta)

    def _boxes(
        self,
        labels: np.ndarray,
        cells: np.ndarray,
        width: int,
        logits: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        meta: Mapping[str, Any],
    ) -> Detections:
        """Return the boxes around the centres of these cells, in the floating type of the maps."""
        row, column = np.divmod(cells, width)
        centres = np.stack([column, row], axis=1).astype(offsets.dtype) + offsets
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
        with np.errstate(over="ignore"):  # exp of a very low logit is inf, and its score 0, as it should be
            scores = 1 / (1 + np.exp(-logits))
        return self._in_image(corners, scores, labels, meta)

    def _in_image(
        self, corners: np.ndarray, scores: np.ndarray, labels: np.ndarray, meta: Mapping[str, Any]
    ) -> Detections:
        """Return the detections that have a score, with corners [N, 4] mapped from cells to the image."""
        height, width = meta["input"]
        size = (width // self.stride, height // self.stride)
        matrix = affine(meta["center"], meta["scale"], size, inverse=True)
        found = scores > 0
        boxes = transform(corners[found].reshape(-1, 2, 2), matrix).reshape(-1, 4)
        return Detections(boxes, scores[found].astype(np.float32), labels[found].astype(np.int64), self.classes)


def find_peaks(planes: np.ndarray, count: int) -> np.ndarray:
    """Return the flat indices, ascending, of peaks of contiguous planes [C, H, W]: all, or the best ``count`` and more.

    A peak is as high as each of its eight neighbours in its plane. Cells above a floor are looked at
    one by one; where these are too few or too many, the whole map is pooled.
    """
    cells = np.flatnonzero(planes >= _floor(planes[:, ::4], count))
    if len(cells) < planes.size / 8:
        peaks: np.ndarray = cells[_are_peaks(planes, cells)]
        if len(peaks) >= count:
            return peaks
    return np.flatnonzero(planes == max_pool(planes))


def max_pool(planes: np.ndarray) -> np.ndarray:
    """Return the 3 x 3 maximum around each cell of contiguous planes [C, H, W]; outside counts as -inf.

    The planes are dilated as one tall image, which is fast but lets neighbouring planes touch; their
    first and last rows are then done again on their own.
    """
    count, height, width = planes.shape
    pooled: np.ndarray = cv2.dilate(planes.reshape(count * height, width), _SQUARE).reshape(planes.shape)
    for edge, inner in ((0, min(1, height - 1)), (height - 1, max(0, height - 2))):
        pooled[:, edge] = cv2.dilate(np.maximum(planes[:, edge], planes[:, inner]), _ROW)
    return pooled


def _are_peaks(planes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    _, height, width = planes.shape
    flat = planes.reshape(-1)
    values = flat[cells]
    row, column = np.divmod(cells % (height * width), width)
    peaks = np.ones(len(cells), bool)
    for down, right in product((-1, 0, 1), repeat=2):
        y, x = row + down, column + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        np.logical_and(peaks, values >= flat[np.where(inside, cells + down * width + right, cells)], out=peaks)
    return peaks


def _floor(sample: np.ndarray, count: int) -> float:
    """Return a value that enough peaks should exceed, judged by every fourth row; -inf where these are few.

    It is the one that 8 * ``count`` of the sample's maxima along axis 0 reach. A lower one costs time,
    a higher one may leave too few peaks; neither changes the result.
    """
    highest, many = sample.max(axis=0), 8 * count
    return float(np.partition(highest, -many, axis=None)[-many]) if highest.size > many else -np.inf


def _best(values: np.ndarray, ranks: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the ``count`` highest values, highest first; of equal ones the lower rank first."""
    kept = np.arange(len(values))
    if len(values) > count:
        kept = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return kept[np.lexsort((ranks[kept], -values[kept]))[:count]]


def _floating(values: np.ndarray) -> np.ndarray:
    """Return float32 and float64 as they are, half precision as float32."""
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
