"""Pascal VOC's average precision, as its development kit computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["VOC_METRICS", "voc_figures"]

VOC_METRICS = ("AP", "AP 11 points", "recall")
OVERLAP = 0.5

Figures = dict[str, float]


def voc_figures(
    annotations: Sequence[Mapping[str, Any]], table: np.ndarray, ids: Sequence[int], names: Mapping[int, str]
) -> tuple[Figures, dict[str, Figures]]:
    """Return the means over classes, and by class AP, AP 11 points and recall; -1 where a class has no annotations.

    ``AP`` is the area under the curve of precision, made falling, over recall (VOC2010 and later), ``AP 11 points``
    the mean at recalls 0, 0.1 … 1 (VOC2007). A detection is right when it overlaps its best box, by at least 0.5, and
    no better one did; difficult objects count neither way. Sides count a pixel more than the difference of corners.
    ``table`` is float64 [N, 7]: image id, x1, y1, x2, y2, score, category id.
    """
    wanted = set(ids)
    by_class: dict[int, dict[int, list[Mapping[str, Any]]]] = {number: {} for number in names}
    for entry in annotations:
        if entry["image_id"] in wanted:
            by_class[entry["category_id"]].setdefault(entry["image_id"], []).append(entry)
    classes = {names[number]: _of_class(boxes, table[table[:, 6] == number]) for number, boxes in by_class.items()}
    counted = [figures for figures in classes.values() if figures["AP"] >= 0]
    means = {name: float(np.mean([figures[name] for figures in counted])) if counted else -1.0 for name in VOC_METRICS}
    return means, classes


def _of_class(truth: Mapping[int, Sequence[Mapping[str, Any]]], table: np.ndarray) -> Figures:
    """Return the figures of a class: its annotations by image, its detections."""
    total = sum(not entry["difficult"] for entries in truth.values() for entry in entries)
    if not total:
        return dict.fromkeys(VOC_METRICS, -1.0)
    corners = {image: _corners(entries) for image, entries in truth.items()}
    taken = {image: np.zeros(len(entries), bool) for image, entries in truth.items()}
    right, wrong = np.zeros(len(table)), np.zeros(len(table))
    for index, row in enumerate(table[np.argsort(-table[:, 5], kind="stable")]):
        image = int(row[0])
        overlaps = _overlaps(row[1:5], corners[image]) if image in corners else np.zeros(0)
        best = int(overlaps.argmax()) if overlaps.size else -1
        if best < 0 or overlaps[best] < OVERLAP:
            wrong[index] = 1
        elif not truth[image][best]["difficult"]:
            wrong[index], right[index] = taken[image][best], not taken[image][best]
            taken[image][best] = True
    found, false = np.cumsum(right), np.cumsum(wrong)
    recall, precision = found / total, found / np.maximum(found + false, 1e-12)
    last = float(recall[-1]) if len(recall) else 0.0
    return {"AP": _area(recall, precision), "AP 11 points": _points(recall, precision), "recall": last}


def _corners(entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    boxes = np.array([entry["bbox"] for entry in entries], np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
    both = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2] + 1, axis=1) + np.prod(box[2:] - box[:2] + 1)
    return np.asarray(both / (areas - both))


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    over = np.concatenate([[0.0], recall, [1.0]])
    high = np.concatenate([[0.0], precision, [0.0]])
    high = np.maximum.accumulate(high[::-1])[::-1]
    return float(np.sum(np.diff(over) * high[1:]))


def _points(recall: np.ndarray, precision: np.ndarray) -> float:
    steps = np.arange(11) / 10
    return float(np.mean([precision[recall >= step].max(initial=0.0) for step in steps]))
