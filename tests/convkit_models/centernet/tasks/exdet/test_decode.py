"""The decoding of extreme points against all K^4 groups in float64, and the suppression against its loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from support.suppression import suppress_by_loops

from convkit import Detections
from convkit_models.centernet.tasks.exdet import ExtremeDecode, _groups, soft_nms

pytestmark = pytest.mark.filterwarnings("error")

META = {"center": [80.0, 60.0], "scale": 160.0, "input": [48, 64]}
RATIO = 160.0 / 16
Maps = dict[str, np.ndarray]


def spec(classes: int = 2, topk: int = 8, *, fixed: bool = False, aggregate: float = 0.0) -> dict[str, Any]:
    names = [f"class {index}" for index in range(classes)]
    return {"stride": 4, "topk": topk, "fixed": fixed, "aggregate": aggregate, "classes": names}


def heads(classes: int = 2, sides: int | None = None, *, seed: int = 0, mean: float = 0.0) -> Maps:
    rng = np.random.default_rng(seed)

    def draw(channels: int, deviation: float, middle: float) -> np.ndarray:
        return (deviation * rng.standard_normal((1, channels, 12, 16)) + middle).astype(np.float32)

    maps = {f"hm_{side}": draw(sides or classes, 1.5, mean - 1) for side in "tlbr"}
    maps |= {f"reg_{side}": rng.uniform(0, 1, (1, 2, 12, 16)).astype(np.float32) for side in "tlbr"}
    return maps | {"hm_c": draw(classes, 1.5, mean)}


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def with_edges(heat: np.ndarray, side: str, weight: float) -> np.ndarray:
    """Return probabilities [C, H, W] to which, cell by cell, what rises towards them along the edge is added."""
    edges = np.zeros_like(heat)
    step = (0, 1) if side in "tb" else (1, 0)
    for label, y, x in itertools.product(*map(range, heat.shape)):
        for sign in (-1, 1):
            here, (down, right) = (y, x), (sign * step[0], sign * step[1])
            while True:
                beyond = here[0] + down, here[1] + right
                inside = 0 <= beyond[0] < heat.shape[1] and 0 <= beyond[1] < heat.shape[2]
                if not inside or heat[(label, *here)] < heat[(label, *beyond)]:
                    break
                edges[label, y, x] += heat[(label, *beyond)]
                here = beyond
    return heat + weight * edges


def groups_by_loops(
    maps: Mapping[str, np.ndarray], settings: Mapping[str, Any], most: int = 1000
) -> list[tuple[int, float, list[float]]]:
    """Return (class, score, box in cells) of the best groups of the first image, by the definition, one by one."""
    one = {name: value[0].astype(np.float64) for name, value in maps.items()}
    _, height, width = one["hm_c"].shape
    agnostic = len(one["hm_t"]) == 1
    points = {}
    for side in "tlbr":
        planes, found = 1 / (1 + np.exp(-one[f"hm_{side}"])), []
        if settings["aggregate"]:
            planes = with_edges(planes, side, settings["aggregate"])
        for label, y, x in itertools.product(range(len(planes)), range(height), range(width)):
            if planes[label, y, x] >= planes[label, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max():
                found.append((-min(planes[label, y, x], 1), label, y * width + x, y, x))
        points[side] = [(-value, label, y, x) for value, label, _, y, x in sorted(found)[: settings["topk"]]]
    rows = []
    for number, (t, l, b, r) in enumerate(itertools.product(*(points[side] for side in "tlbr"))):  # noqa: E741
        cy, cx = int((t[2] + b[2] + 0.5) / 2), int((l[3] + r[3] + 0.5) / 2)
        middle, label = one["hm_c"][t[1], cy, cx], t[1]
        if agnostic:
            middle, label = one["hm_c"][:, cy, cx].max(), int(one["hm_c"][:, cy, cx].argmax())
        score = (t[0] + l[0] + b[0] + r[0] + 2 * sigmoid(middle)) / 6
        score -= any(point[1] != t[1] for point in (l, b, r))
        score -= any(t[2] > point[2] for point in (l, b, r))
        score -= any(l[3] > point[3] for point in (t, b, r))
        score -= any(b[2] < point[2] for point in (t, l, r))
        score -= any(r[3] < point[3] for point in (t, l, b))
        score -= min(t[0], l[0], b[0], r[0]) < 0.1 or sigmoid(middle) < 0.1
        exact = {}
        for side, point in zip("tlbr", (t, l, b, r), strict=True):
            dx, dy = one[f"reg_{side}"][:, point[2], point[3]] if f"reg_{side}" in one else (0.5, 0.5)
            exact[side] = (point[3] + dx, point[2] + dy)
        box = [exact["l"][0], exact["t"][1], exact["r"][0], exact["b"][1]]
        rows.append((-score, number, label, box))
    return [(label, -score, box) for score, _, label, box in sorted(rows)[:most] if -score > 0]


def by_loops(
    maps: Mapping[str, np.ndarray], settings: Mapping[str, Any], most: int = 1000
) -> list[tuple[int, float, list[float]]]:
    """Return (class, score, box) of the first image, by the definition."""
    width = maps["hm_c"].shape[-1]
    results = []
    by_class: dict[int, list[list[float]]] = {}
    for rank, (label, score, box) in enumerate(groups_by_loops(maps, settings, most)):
        if rank >= most // 2 and not settings["fixed"]:
            box = [width - box[2], box[1], width - box[0], box[3]]
        centre = META["center"]
        mapped = [(v - (8, 6)[i % 2]) * RATIO + centre[i % 2] for i, v in enumerate(box)]  # type: ignore[index]
        by_class.setdefault(label, []).append([*mapped, score])
    for label, boxes in sorted(by_class.items()):
        count = suppress_by_loops(boxes)
        results += [(label, row[4], row[:4]) for row in (boxes[:count] if settings["fixed"] else boxes)]
    if len(results) > 100:
        least = sorted((score for _, score, _ in results), reverse=True)[99]
        results = [each for each in results if each[1] >= least]
    return sorted(results, key=lambda each: -each[1])


def decode(maps: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Detections:
    (found,) = ExtremeDecode(settings)(maps, [META])
    assert isinstance(found, Detections)
    return found


def assert_is(found: Detections, expected: list[tuple[int, float, list[float]]]) -> None:
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=2e-5)
    assert found.class_ids.tolist() == [label for label, _, _ in expected]
    np.testing.assert_allclose(found.boxes, np.array([box for _, _, box in expected]).reshape(-1, 4), atol=1e-3)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("classes", "sides", "seed"), [(1, None, 3), (2, None, 1), (3, 1, 2), (3, 1, 5)])
def test_heads_against_all_groups(classes: int, sides: int | None, seed: int, fixed: bool) -> None:
    """One class, several, and sides for all classes in one."""
    maps, settings = heads(classes, sides, seed=seed, mean=1), spec(classes, topk=7, fixed=fixed)
    expected = by_loops(maps, settings)
    assert expected
    assert_is(decode(maps, settings), expected)


@pytest.mark.parametrize(("weight", "mean"), [(0.1, 0.0), (0.3, 1.5)])
@pytest.mark.parametrize(("classes", "sides"), [(2, None), (3, 1)])
def test_edges_make_extreme_points_stronger(classes: int, sides: int | None, weight: float, mean: float) -> None:
    """With 0.3 many points reach the limit of 1, which are equal then."""
    maps, settings = heads(classes, sides, seed=4, mean=mean), spec(classes, topk=7, fixed=True, aggregate=weight)
    expected = by_loops(maps, settings)
    assert expected
    found = decode(maps, settings)
    assert_is(found, expected)
    assert found.compare(decode(maps, {**settings, "aggregate": 0.0})).unexplained


def test_the_mirrored_half_differs_as_documented() -> None:
    maps = heads(1, seed=0, mean=3)
    official, mended = decode(maps, spec(1, topk=16)), decode(maps, spec(1, topk=16, fixed=True))
    assert official.compare(mended).unexplained


def test_many_groups_of_which_the_best_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more groups than become boxes, so that not all are looked at; here 10 become some, in place of 1000."""
    monkeypatch.setattr("convkit_models.centernet.tasks.exdet._decode.MOST_GROUPS", 10)
    maps, settings = heads(1, seed=3, mean=4), spec(1, topk=10)
    assert_is(decode(maps, settings), by_loops(maps, settings, most=10))


@pytest.mark.parametrize(("classes", "sides", "most"), [(1, None, 10), (2, None, 100), (3, 1, 10)])
def test_cells_that_score_alike(classes: int, sides: int | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell is a peak then, all groups score the same, and those with the first points count."""
    monkeypatch.setattr("convkit_models.centernet.tasks.exdet._decode.MOST_GROUPS", most)
    maps, settings = heads(classes, sides, seed=3), spec(classes, topk=9)
    maps |= {name: np.zeros_like(value) for name, value in maps.items() if name.startswith("hm")}
    assert_is(decode(maps, settings), by_loops(maps, settings, most=most))


@pytest.mark.parametrize("deviation", [0, 1e-3])
def test_few_groups_are_looked_at_where_cells_score_alike(deviation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40^4 groups, of which 1000 count."""
    looked_at = 0
    add = _groups._Best.add

    def count(self: _groups._Best, scores: np.ndarray, keys: np.ndarray, good: np.ndarray) -> None:
        nonlocal looked_at
        looked_at += scores.size
        add(self, scores, keys, good)

    monkeypatch.setattr(_groups._Best, "add", count)
    maps = {name: np.float32(deviation) * value for name, value in heads(1, seed=3).items()}
    assert len(decode(maps, spec(1, topk=40, fixed=True))) > 30
    assert 1000 <= looked_at < 40**4 / 50


def test_without_offsets_and_with_none_found() -> None:
    maps = {name: value for name, value in heads(seed=1).items() if not name.startswith("reg")}
    assert_is(decode(maps, spec()), by_loops(maps, spec()))
    nothing = {name: np.full_like(value, -9) for name, value in maps.items()}
    assert len(decode(nothing, spec())) == 0


@pytest.mark.parametrize("side", "tlbrc")
def test_an_image_without_a_point_on_one_side_has_no_boxes(side: str) -> None:
    maps = heads(seed=1, mean=1)
    assert len(decode(maps, spec())) > 0
    assert len(decode({**maps, f"hm_{side}": np.full_like(maps[f"hm_{side}"], -9)}, spec())) == 0


@pytest.mark.parametrize("seed", range(4))
def test_suppression_against_loops(seed: int) -> None:
    """Also with rows that fall below the limit, and what they leave behind the remaining ones."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 12, (60, 2))
    rows = np.concatenate([corners, corners + rng.integers(6, 12, (60, 2)), rng.uniform(0.001, 0.02, (60, 1))], axis=1)
    found, expected = rows.astype(np.float32), [list(map(float, row)) for row in rows.astype(np.float32)]
    count = soft_nms(found)
    assert count == suppress_by_loops(expected) < 60
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("fixed", [False, True])
def test_boxes_of_a_mirrored_image_are_mirrored_back_and_join_the_others(fixed: bool) -> None:
    """With as many groups as there are boxes at most, each view alone gives what the loops give for it."""
    maps, other, settings = heads(2, seed=1, mean=1), heads(2, seed=4, mean=1), spec(2, topk=7, fixed=fixed)
    join = ExtremeDecode(settings).joining({"flip": "yes"})
    metas = [{**META, "test_scale": 1.0, "flipped": flipped} for flipped in (False, True)]
    views = [{name: value[0] for name, value in each.items()} for each in (maps, other)]
    found = join(views, metas)
    rows: dict[int, list[list[float]]] = {}
    for flipped, each in enumerate((maps, other)):
        for label, score, box in groups_by_loops(each, settings):
            x1, x2 = (16 - box[2], 16 - box[0]) if flipped else (box[0], box[2])
            mapped = [
                (v - (8, 6)[i % 2]) * RATIO + META["center"][i % 2] for i, v in enumerate([x1, box[1], x2, box[3]])
            ]
            rows.setdefault(label, []).append([*mapped, score])
    expected = []
    for label, boxes in sorted(rows.items()):
        count = suppress_by_loops(boxes)
        expected += [(label, row[4], row[:4]) for row in (boxes[:count] if fixed else boxes)]
    assert 0 < len(expected) <= 100
    assert_is(found, sorted(expected, key=lambda each: -each[1]))
