"""The decode mode of tensorRT_Pro: one box per cell above a confidence, and suppression within a class.

It follows the kernels of that project's CenterNet application, for comparisons with it. CenterNet itself needs no
suppression, and a cell may have boxes of several classes. Intended differences from the original:

* The order is fixed (higher logit, lower class, further up and left). The original uses atomic counters, so which
  boxes remain of more than 1024 differs from run to run; here the best 1024 cells remain.
* Of overlapping boxes with equal scores, the earlier one in that order remains. In the original it is the one with the
  higher index in that run.
* Boxes are mapped into the image in float64, and scores come from logits in float64; both are rounded to float32.
* At most ``topk`` boxes are returned, after suppression.
* NaN is no peak and no score. Without the head ``reg``, centres are in the middle of cells.

As in the original, a cell with a peak of any class is reported as class 0 with the logit of class 0 where that logit is
at least as high, whether it is a peak or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit import Detections
from convkit.errors import SettingError
from convkit_models.centernet.tasks.ctdet._decode import CtdetDecode, are_peaks, best, sigmoid

if TYPE_CHECKING:
    from convkit_models.centernet.tasks.ctdet._device_decode import CudaDecode

__all__ = ["MODE", "MOST_CELLS", "ProDecode", "least_logit", "overlaps"]

MODE = "tensorrt-pro"
MOST_CELLS = 1024
"""The number of cells that take part in the suppression."""


class ProDecode(CtdetDecode):
    """Decode ``heads`` or ``tensorrt-pro`` as tensorRT_Pro does.

    The specification has ``confidence``, the lowest score, and ``nms``, the largest intersection over union that two
    boxes of a class may have.

    Raises:
        SettingError: the form is ``detections``, whose boxes were chosen already, or a threshold is out of range.
    """

    def joining(self, settings: Mapping[str, str]) -> None:  # type: ignore[override]
        """Return None: this decoding has no test-time augmentation."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        if spec["form"] == "detections":
            raise SettingError(
                f"The form 'detections' cannot be decoded in the mode {MODE!r}.",
                hint="Use --form heads or tensorrt-pro.",
            )
        for name in ("confidence", "nms"):
            if not 0 < spec[name] < 1:
                raise SettingError(f"The threshold {name!r} cannot be {spec[name]}.", hint="Give a number in 0..1.")
        super().__init__(spec)
        self.least = least_logit(spec["confidence"])
        self.overlap = np.float32(spec["nms"])

    def on_device(self) -> CudaDecode:
        """Return the same decoding on the GPU."""
        from convkit_models.centernet.tasks.ctdet._device_decode import CudaDecode

        return CudaDecode(self.spec)

    def _heads(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        hm, wh = np.ascontiguousarray(maps["hm"]), maps["wh"]
        _, height, width = hm.shape
        reached = np.flatnonzero(hm >= self.least)
        peaks = reached[are_peaks(hm, reached)]
        labels, cells = np.divmod(peaks, height * width)
        labels, cells, logits = _objects(labels, cells, hm.reshape(-1)[peaks], hm[0].reshape(-1))
        first = 2 * labels if self.sizes_per_class else np.zeros_like(labels)
        sizes = np.stack([wh.reshape(len(wh), -1)[first + axis, cells] for axis in (0, 1)], axis=1)
        offsets = maps["reg"].reshape(2, -1)[:, cells].T if "reg" in maps else np.full_like(sizes, 0.5)
        return self._suppressed(self._boxes(labels, cells, width, sigmoid(logits), offsets, sizes, meta))

    def _packed(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        rows = maps["output"]
        classes, width = (rows.shape[1] - 4) // 2, meta["input"][1] // self.stride
        logits = rows[:, 4 : 4 + classes]
        cells, labels = np.nonzero((logits >= self.least) & (logits == rows[:, 4 + classes :]))
        labels, cells, values = _objects(labels, cells, logits[cells, labels], logits[:, 0])
        return self._suppressed(
            self._boxes(labels, cells, width, sigmoid(values), rows[cells, :2], rows[cells, 2:4], meta)
        )

    def _suppressed(self, found: Detections) -> Detections:
        """Return those that overlap no earlier one of their class, the first K."""
        same = found.class_ids[:, None] == found.class_ids
        rivals = np.tril(same & (overlaps(found.boxes) > self.overlap), -1)
        kept = np.flatnonzero(~rivals.any(axis=1))[: self.topk]
        return Detections(found.boxes[kept], found.scores[kept], found.class_ids[kept], found.classes)


def least_logit(confidence: float) -> Any:
    """Return the logit of a confidence, as a float32 scalar."""
    return np.float32(-math.log(1 / confidence - 1))


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """Return the intersection over union of float32 boxes [N, 4] with each other, float32 [N, N]."""
    x1, y1, x2, y2 = boxes.T
    with np.errstate(all="ignore"):  # boxes may be empty, infinite or NaN
        width = np.fmin(x2[:, None], x2) - np.fmax(x1[:, None], x1)
        height = np.fmin(y2[:, None], y2) - np.fmax(y1[:, None], y1)
        both = np.fmax(width, np.float32(0)) * np.fmax(height, np.float32(0))
        areas = (x2 - x1) * (y2 - y1)
        return np.asarray(both / (areas[:, None] + areas - both))


def _objects(
    labels: np.ndarray, cells: np.ndarray, values: np.ndarray, firsts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return class, cell and logit of each object, best first, from the peaks and all cells' logits of class 0."""
    order = np.lexsort((labels, -values, cells))
    order = order[np.unique(cells[order], return_index=True)[1]]
    labels, cells, values = labels[order], cells[order], values[order]
    first = firsts[cells] >= values
    labels, values = np.where(first, 0, labels), np.where(first, firsts[cells], values)
    kept = best(values, labels * len(firsts) + cells, MOST_CELLS)
    return labels[kept], cells[kept], values[kept]
