"""COCO's figures, by pycocotools: of boxes, and of key points."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convkit.evaluation._scheme import FIXED

__all__ = ["METRICS", "POINT_METRICS", "coco_figures"]

METRICS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large", "AR 1", "AR 10", "AR 100", "AR small",
           "AR medium", "AR large")  # fmt: skip
POINT_METRICS = ("AP", "AP50", "AP75", "AP medium", "AP large", "AR", "AR50", "AR75", "AR medium", "AR large")
MOST_POSES = 20
"""COCO judges so many poses of an image and class, the best; the others need not be handed over."""

Figures = dict[str, float]


def coco_figures(
    truth: Any,
    table: np.ndarray,
    ids: Sequence[int],
    names: Mapping[int, str],
    sigmas: Sequence[float] = (),
) -> tuple[Figures, dict[str, Figures]]:
    """Return the figures of results, and by class AP, AP50, AP75 and AR.

    ``table`` is float64 [N, 1 + columns]: image id, then the columns of a `Scheme` with category ids as classes. Poses
    have one of ``sigmas`` for each joint; their figures are those of the key points, and ``box AP`` … of the boxes.
    """
    points = table.shape[1] > 1 + FIXED
    figures, classes = _judge(truth, table, ids, names, sigmas) if points else _judge(truth, table, ids, names)
    if points:
        boxes, _ = _judge(truth, table[:, : 1 + FIXED], ids, names)
        figures |= {f"box {name}": value for name, value in boxes.items()}
    return figures, classes


def _judge(
    truth: Any, table: np.ndarray, ids: Sequence[int], names: Mapping[int, str], sigmas: Sequence[float] = ()
) -> tuple[Figures, dict[str, Figures]]:
    from pycocotools.cocoeval import COCOeval

    kind = "keypoints" if sigmas else "bbox"
    whole = COCOeval(truth, None, kind)
    whole.params.imgIds = list(ids)
    precision, recall = [], []
    with contextlib.redirect_stdout(io.StringIO()):
        # pycocotools holds about 5 kB a detection while it works: category by category that stays little.
        for category in whole.params.catIds:
            own = table[table[:, 6] == category]
            judge = COCOeval(truth, _results(truth, own, points=bool(sigmas)), kind)
            judge.params.imgIds, judge.params.catIds = list(ids), [category]
            if sigmas:
                judge.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
            judge.evaluate()
            judge.accumulate()
            precision.append(judge.eval["precision"])
            recall.append(judge.eval["recall"])
        whole.eval = {"precision": np.concatenate(precision, axis=2), "recall": np.concatenate(recall, axis=1)}
        whole.summarize()
    metrics = POINT_METRICS if sigmas else METRICS
    figures = {name: float(value) for name, value in zip(metrics, whole.stats, strict=True)}
    classes = {
        names[category]: _of_class(whole.eval["precision"][:, :, index, 0, -1], whole.eval["recall"][:, index, 0, -1])
        for index, category in enumerate(whole.params.catIds)
    }
    return figures, classes


def _of_class(precision: np.ndarray, recall: np.ndarray) -> Figures:
    """Return the figures of a class from precisions [T, R] and recalls [T] for IoUs of 0.5 to 0.95."""
    shares = {"AP": precision, "AP50": precision[0], "AP75": precision[5], "AR": recall}
    return {name: _mean(values) for name, values in shares.items()}


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else -1.0


def _results(truth: Any, table: np.ndarray, *, points: bool) -> Any:
    """Return detections as pycocotools wants them; its own loader refuses an empty table."""
    from pycocotools.coco import COCO

    if not len(table):
        results = COCO()
        results.dataset = {**truth.dataset, "annotations": []}
        results.createIndex()
        return results
    sides = table[:, 3:5] - table[:, 1:3]
    if not points:
        return truth.loadRes(np.concatenate([table[:, :3], sides, table[:, 5:7]], axis=1))
    return truth.loadRes(
        [
            {
                "image_id": int(row[0]),
                "category_id": int(row[6]),
                "bbox": [float(row[1]), float(row[2]), float(width), float(height)],
                "score": float(row[5]),
                "keypoints": np.insert(row[7:].reshape(-1, 2), 2, 1, axis=1).ravel().tolist(),
            }
            for row, (width, height) in ((table[index], sides[index]) for index in _best(table))
        ]
    )


def _best(table: np.ndarray) -> np.ndarray:
    """Return the indices of the best poses of each image, in the order of the table."""
    order = np.lexsort((-table[:, 5], table[:, 0]))
    images = table[order, 0]
    rank = np.arange(len(order)) - np.searchsorted(images, images)
    return np.asarray(np.sort(order[rank < MOST_POSES]))
