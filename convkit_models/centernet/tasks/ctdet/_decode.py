"""Output tensors into boxes, in pixels of the original image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from convkit import Decode, Detections, Result
from convkit.processing import Join
from convkit_models.centernet._geometry import affine, transform

if TYPE_CHECKING:
    from convkit_models.centernet.tasks.ctdet._device_decode import CudaDecode

__all__ = ["CtdetDecode", "are_peaks", "best", "find_peaks", "max_pool", "sigmoid"]

_ROW = np.ones((1, 3), np.uint8)
_SQUARE = np.ones((3, 3), np.uint8)
_LOG2_E = 1.4426950408889634
_LOG_2 = (0.6931471803691238, 1.9082149292705877e-10)  # their sum; multiples of the first are exact in float64
_TAYLOR = [1 / math.factorial(degree) for degree in range(13, -1, -1)]


class CtdetDecode(Decode):
    """Decode any of the output forms; see ``_forms`` for what they are.

    The K best peaks of the heat map become boxes; a cell may give several, of different classes.
    Peaks are found among the logits, so that all forms agree, and only they pass the sigmoid. The
    order is fixed: higher logit first, then lower class, then the cell further up and left. Fewer
    than K peaks give fewer boxes. As in the official code, boxes are neither clipped to the image
    nor cut off at a score, and there is no suppression of overlapping ones.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.stride: int = spec["stride"]
        self.topk: int = spec["topk"]
        self.sizes_per_class: bool = spec["sizes_per_class"]
        self.classes: Sequence[str] = tuple(spec["classes"])
        self._decode = {"heads": self._heads, "tensorrt-pro": self._packed, "detections": self._rows}[spec["form"]]

    def on_device(self) -> CudaDecode:
        """Return the same decoding on the GPU.

        Raises:
            KernelArgumentError: more detections are asked for than the GPU sorts.
        """
        from convkit_models.centernet.tasks.ctdet._device_decode import CudaDecode

        return CudaDecode(self.spec)

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the detections of each image of the batch; ``metas`` are those of the preprocess."""
        return [
            self.single({name: value[index] for name, value in outputs.items()}, metas[index])
            for index in range(len(metas))
        ]

    def single(self, outputs: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        """Return the detections of one image from outputs without the batch axis."""
        return self._decode({name: _floating(value) for name, value in outputs.items()}, meta)

    def joining(self, settings: Mapping[str, str]) -> Join:
        """Return what makes one result of the outputs of mirrored and scaled views.

        Raises:
            SettingError: a setting is unknown, or the graph returns boxes that it chose itself.
        """
        from convkit_models.centernet.tasks.ctdet._join import JoinedBoxes

        return JoinedBoxes(self, settings)

    def maps(self, outputs: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the maps ``hm``, ``wh`` and perhaps ``reg`` of one image; the form ``detections`` has none."""
        outputs = {name: _floating(value) for name, value in outputs.items()}
        if self.spec["form"] == "heads":
            return outputs
        rows = outputs["output"]
        height, width = (side // self.stride for side in meta["input"])
        planes = rows.T.reshape(rows.shape[1], height, width)
        return {"reg": planes[:2], "wh": planes[2:4], "hm": planes[4 : 4 + len(self.classes)]}

    def from_probabilities(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        """Return the detections of the maps ``hm``, of probabilities, ``wh`` and perhaps ``reg``."""
        return self._of_maps(maps, meta, np.float32)

    def _heads(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        return self._of_maps(maps, meta, sigmoid)

    def _of_maps(
        self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any], score: Callable[[np.ndarray], Any]
    ) -> Detections:
        hm, wh = np.ascontiguousarray(maps["hm"]), maps["wh"]
        _, height, width = hm.shape
        logits = hm.reshape(-1)
        peaks = find_peaks(hm, self.topk)
        peaks = peaks[best(logits[peaks], peaks, self.topk)]
        labels, cells = np.divmod(peaks, height * width)
        first = 2 * labels if self.sizes_per_class else np.zeros_like(labels)
        sizes = np.stack([wh.reshape(len(wh), -1)[first + axis, cells] for axis in (0, 1)], axis=1)
        offsets = maps["reg"].reshape(2, -1)[:, cells].T if "reg" in maps else np.full_like(sizes, 0.5)
        return self._boxes(labels, cells, width, score(logits[peaks]), offsets, sizes, meta)

    def _packed(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
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
        kept = best(values, labels * len(rows) + cells, self.topk)
        labels, cells = labels[kept], cells[kept]
        return self._boxes(labels, cells, width, sigmoid(values[kept]), rows[cells, :2], rows[cells, 2:4], meta)

    def _rows(self, maps: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> Detections:
        rows = maps["detections"]
        return self._in_image(rows[:, :4] / rows.dtype.type(self.stride), rows[:, 4], rows[:, 5], meta)

    def _boxes(
        self,
        labels: np.ndarray,
        cells: np.ndarray,
        width: int,
        scores: np.ndarray,
        offsets: np.ndarray,
        sizes: np.ndarray,
        meta: Mapping[str, Any],
    ) -> Detections:
        """Return the boxes around the centres of these cells, in the floating type of the maps."""
        row, column = np.divmod(cells, width)
        centres = np.stack([column, row], axis=1).astype(offsets.dtype) + offsets
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
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


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logit)) as float32, from float64 in operations that any IEEE machine repeats to the bit.

    The exponential is a Taylor polynomial of degree 13 around the nearest multiple of log 2, so the error is hardly
    more than half an ulp of float32; the GPU's kernel does the same. Beyond 700 the result is 0 or 1 in float32 anyway.
    """
    x = np.clip(-logits.astype(np.float64), -700, 700)
    multiple = np.rint(x * _LOG2_E)
    rest = x + multiple * -_LOG_2[0] + multiple * -_LOG_2[1]
    power = np.full_like(x, _TAYLOR[0])
    for coefficient in _TAYLOR[1:]:
        power = power * rest + coefficient
    power *= ((multiple.astype(np.int64) + 1023) << 52).view(np.float64)
    with np.errstate(under="ignore"):  # a very low score is 0, as it should be
        return np.asarray(1 / (1 + power), np.float32)


def find_peaks(planes: np.ndarray, count: int) -> np.ndarray:
    """Return the flat indices, ascending, of peaks of contiguous planes [C, H, W]: all, or the best ``count`` and more.

    A peak is as high as each of its eight neighbours in its plane; NaN is none, nor is a neighbour of it. Cells above
    a floor are looked at one by one; where these are too few or too many, the whole map is pooled.
    """
    cells = np.flatnonzero(planes >= _floor(planes[:, ::4], count))
    if len(cells) < planes.size / 8:
        peaks: np.ndarray = cells[are_peaks(planes, cells)]
        if len(peaks) >= count:
            return peaks
    if np.isnan(planes.max()):  # which OpenCV's comparisons pass over, in some positions
        return np.flatnonzero(are_peaks(planes, np.arange(planes.size)))
    return np.flatnonzero(planes == max_pool(planes))


def max_pool(planes: np.ndarray) -> np.ndarray:
    """Return the 3 x 3 maximum around each cell of contiguous planes [C, H, W]; what is outside does not count.

    The planes are dilated as one tall image, which is fast but lets neighbouring planes touch; their
    first and last rows are then done again on their own. OpenCV's own border is a number, above -inf; the edge repeated
    changes no maximum.
    """
    count, height, width = planes.shape
    pooled: np.ndarray = cv2.dilate(
        planes.reshape(count * height, width), _SQUARE, borderType=cv2.BORDER_REPLICATE
    ).reshape(planes.shape)
    for edge, inner in ((0, min(1, height - 1)), (height - 1, max(0, height - 2))):
        pooled[:, edge] = cv2.dilate(
            np.maximum(planes[:, edge], planes[:, inner]), _ROW, borderType=cv2.BORDER_REPLICATE
        )
    return pooled


def are_peaks(planes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return which of the flat indices are peaks of contiguous planes [C, H, W], each compared with its neighbours."""
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


def best(values: np.ndarray, ranks: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the ``count`` highest values, highest first; of equal ones the lower rank first."""
    kept = np.arange(len(values))
    if len(values) > count:
        kept = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return kept[np.lexsort((ranks[kept], -values[kept]))[:count]]


def _floating(values: np.ndarray) -> np.ndarray:
    """Return float32 and float64 as they are, half precision as float32."""
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)
