"""Random heads of poses, and their decode by loops in float64, written from what CenterNet does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convkit import Poses

META: Mapping[str, Any] = {"center": [320.5, 240.0], "scale": 640.0, "input": [48, 64]}
Maps = dict[str, np.ndarray]


def spec(form: str = "heads", joints: int = 3, topk: int = 20) -> dict[str, Any]:
    names = [f"joint {index}" for index in range(joints)]
    return {"form": form, "stride": 4, "topk": topk, "joints": names, "edges": [[0, 1]]}


def heads(joints: int = 3, height: int = 12, width: int = 16, *, seed: int = 0, batch: int = 1) -> Maps:
    """Random heads whose regressed joints lie near the cell, and some near candidates."""
    rng = np.random.default_rng(seed)

    def draw(channels: int, low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (batch, channels, height, width)).astype(np.float32)

    return {
        "hm": (2.5 * rng.standard_normal((batch, 1, height, width)) - 2).astype(np.float32),
        "wh": draw(2, -1, 15),
        "reg": draw(2, 0, 1),
        "hps": draw(2 * joints, -3, 3),
        "hm_hp": (2.5 * rng.standard_normal((batch, joints, height, width)) - 1).astype(np.float32),
        "hp_offset": draw(2, 0, 1),
    }


def is_peak(plane: np.ndarray, y: int, x: int) -> bool:
    return bool(plane[y, x] >= plane[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max())


def by_loops(
    maps: Mapping[str, np.ndarray], settings: Mapping[str, Any], meta: Mapping[str, Any] = META, image: int = 0
) -> list[tuple[float, list[float], Any]]:
    """Return (score, box, points) of one image, by the definition."""
    one = {name: value[image].astype(np.float64) for name, value in maps.items()}
    hm, topk, joints = one["hm"][0], settings["topk"], len(settings["joints"])
    height, width = hm.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    people = sorted((-hm[y, x], y * width + x, y, x) for y, x in cells if is_peak(hm, y, x))[:topk]
    candidates: list[list[tuple[float, float, float]]] = [[] for _ in range(joints)]
    for joint, found in enumerate(candidates if "hm_hp" in one else []):
        plane = one["hm_hp"][joint]
        peaks = sorted((-plane[y, x], y * width + x, y, x) for y, x in cells if is_peak(plane, y, x))[:topk]
        for value, _, y, x in peaks:
            dx, dy = one["hp_offset"][:, y, x] if "hp_offset" in one else (0.5, 0.5)
            if (score := 1 / (1 + math.exp(value))) > 0.1:
                found.append((score, x + dx, y + dy))
    results = []
    for value, _, y, x in people:
        dx, dy = one["reg"][:, y, x] if "reg" in one else (0.5, 0.5)
        w, h = one["wh"][:, y, x]
        box = [x + dx - w / 2, y + dy - h / 2, x + dx + w / 2, y + dy + h / 2]
        points = []
        for joint in range(joints):
            # from the cell itself, without its offset
            px, py = x + one["hps"][2 * joint, y, x], y + one["hps"][2 * joint + 1, y, x]
            best = min(candidates[joint], key=lambda c: math.hypot(c[1] - px, c[2] - py), default=None)
            if best is not None:
                _, cx, cy = best
                inside = box[0] <= cx <= box[2] and box[1] <= cy <= box[3]
                if inside and math.hypot(cx - px, cy - py) <= 0.3 * max(box[3] - box[1], box[2] - box[0]):
                    px, py = cx, cy
            points.append((px, py))
        results.append((1 / (1 + math.exp(value)), in_image(box, meta), [in_image(point, meta) for point in points]))
    return results


def in_image(values: Any, meta: Mapping[str, Any]) -> list[float]:
    """Map x, y, x, y … from cells to the image."""
    width, height = meta["input"][1] / 4, meta["input"][0] / 4
    centre, ratio = meta["center"], meta["scale"] / width
    middle = (width / 2, height / 2)
    return [(v - middle[i % 2]) * ratio + centre[i % 2] for i, v in enumerate(values)]


def assert_is(found: Poses, expected: list[tuple[float, list[float], Any]], joints: int) -> None:
    assert found.boxes.dtype == found.scores.dtype == found.points.dtype == np.float32
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=2e-6)
    np.testing.assert_allclose(found.boxes, np.array([box for _, box, _ in expected]).reshape(-1, 4), atol=1e-3)
    points = np.array([points for _, _, points in expected]).reshape(-1, joints, 2)
    np.testing.assert_allclose(found.points, points, atol=1e-3)
