"""The decoding of boxes in space against loops in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest

from convkit import Boxes3D
from convkit_models.centernet import convkit_preprocess
from convkit_models.centernet.tasks.ddd import SpaceDecode

pytestmark = pytest.mark.filterwarnings("error")

META = {"center": [621.0, 187.5], "scale": 1242.0, "input": [48, 160]}
P = [707.0493, 0.0, 604.0814, 45.75831, 0.0, 707.0493, 180.5066, -0.3454157, 0.0, 0.0, 1.0, 0.004981016]
Maps = dict[str, np.ndarray]


def spec(topk: int = 20, *, fixed: bool = False) -> dict[str, Any]:
    names = ["Pedestrian", "Car", "Cyclist"]
    return {"stride": 4, "topk": topk, "fixed": fixed, "calibration": P, "classes": names}


def heads(*, seed: int = 0, mean: float = -1.0) -> Maps:
    rng = np.random.default_rng(seed)

    def draw(channels: int, low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (1, channels, 12, 40)).astype(np.float32)

    maps = {"hm": (1.5 * rng.standard_normal((1, 3, 12, 40)) + mean).astype(np.float32)}
    maps |= {"dep": draw(1, -4, 0), "rot": draw(8, -1, 1), "dim": draw(3, 1, 4)}
    return maps | {"wh": draw(2, 1, 9), "reg": draw(2, 0, 1)}


def by_loops(maps: Mapping[str, np.ndarray], settings: Mapping[str, Any], P: list[float] = P) -> list[dict[str, Any]]:
    one = {name: value[0].astype(np.float64) for name, value in maps.items()}
    hm = one["hm"]
    classes, height, width = hm.shape
    peaks = sorted(
        (-hm[label, y, x], label, y * width + x, y, x)
        for label in range(classes)
        for y in range(height)
        for x in range(width)
        if hm[label, y, x] >= hm[label, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max()
    )
    ratio = META["scale"] / width  # type: ignore[operator]

    def mapped(u: float, v: float) -> tuple[float, float]:
        cx, cy = META["center"]  # type: ignore[misc]
        return (u - width / 2) * ratio + cx, (v - height / 2) * ratio + cy

    found = []
    for value, label, _, y, x in peaks[: settings["topk"]]:
        score = 1 / (1 + math.exp(value))
        if score <= 0.2:
            continue
        dx, dy = one["reg"][:, y, x] if "reg" in one else (0.5, 0.5)
        u, v = mapped(x + dx, y + dy)
        w, h = one["wh"][:, y, x] if "wh" in one else (0, 0)
        w, h = (w * ratio, h * ratio) if settings["fixed"] else mapped(w, h)
        depth = 1 / (1 / (1 + math.exp(-one["dep"][0, y, x])) + 1e-6) - 1
        rot, dim = one["rot"][:, y, x], one["dim"][:, y, x]
        first = rot[1] > rot[5]
        alpha = math.atan2(rot[2], rot[3]) - math.pi / 2 if first else math.atan2(rot[6], rot[7]) + math.pi / 2
        z = depth - P[11]
        place = [(u * depth - P[3] - P[2] * z) / P[0], (v * depth - P[7] - P[6] * z) / P[5] + dim[0] / 2, z]
        heading = alpha + math.atan2(u - P[2], P[0])
        heading += -2 * math.pi if heading > math.pi else 2 * math.pi if heading < -math.pi else 0
        box = [u - w / 2, v - h / 2, u + w / 2, v + h / 2]
        found.append(
            {
                "class_ids": label,
                "scores": score,
                "boxes": box if "wh" in one else around(dim, place, heading, P),
                "sizes": dim,
                "places": place,
                "headings": heading,
                "alphas": alpha,
            }
        )
    return found


def around(dim: np.ndarray, place: list[float], heading: float, P: list[float]) -> list[float]:
    """Return the box around the eight projected corners."""
    points = []
    for x, y, z in itertools.product((-dim[2] / 2, dim[2] / 2), (0, -dim[0]), (-dim[1] / 2, dim[1] / 2)):
        cos, sin = math.cos(heading), math.sin(heading)
        corner = [cos * x + sin * z + place[0], y + place[1], max(cos * z - sin * x + place[2], 0.1 - P[11]), 1.0]
        u, v, w = (sum(a * b for a, b in zip(P[4 * row : 4 * row + 4], corner, strict=True)) for row in range(3))
        points.append((u / w, v / w))
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def assert_is(found: Boxes3D, expected: list[dict[str, Any]]) -> None:
    assert found.class_ids.tolist() == [each["class_ids"] for each in expected]
    for name in ("scores", "boxes", "sizes", "places", "headings", "alphas"):
        values = getattr(found, name)
        assert values.dtype == np.float32
        wanted = np.array([each[name] for each in expected]).reshape(values.shape)
        np.testing.assert_allclose(values, wanted, rtol=3e-5, atol=2e-3, err_msg=name)


def decode(maps: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Boxes3D:
    (found,) = SpaceDecode(settings)(maps, [META])
    assert isinstance(found, Boxes3D)
    return found


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("topk", "seed"), [(1, 0), (20, 1), (200, 2)])
def test_heads_against_loops(topk: int, seed: int, fixed: bool) -> None:
    maps, settings = heads(seed=seed), spec(topk, fixed=fixed)
    expected = by_loops(maps, settings)
    assert expected
    assert_is(decode(maps, settings), expected)


def test_ties_no_offset_and_nothing() -> None:
    maps = heads(seed=4)
    maps["hm"] = np.round(maps["hm"])
    del maps["reg"]
    assert_is(decode(maps, spec(9)), by_loops(maps, spec(9)))
    maps["hm"][:] = np.log(0.2 / 0.8) - 1e-3
    assert len(decode(maps, spec())) == 0


def test_without_the_head_wh_the_box_is_around_the_one_in_space() -> None:
    maps, settings = heads(seed=2), spec(60)
    maps["dep"] -= 1.5  # farther away, as few corners as possible behind the camera
    del maps["wh"]
    expected, found = by_loops(maps, settings), decode(maps, settings)
    assert len(expected) > 10
    assert found.class_ids.tolist() == [each["class_ids"] for each in expected]
    far = [each["places"][2] > 5 for each in expected]
    assert sum(far) > 5
    boxes = np.array([each["boxes"] for each in expected])
    np.testing.assert_allclose(found.boxes[far], boxes[far], rtol=1e-4, atol=5e-2)
    assert np.isfinite(found.boxes).all()


def test_each_image_has_its_own_camera() -> None:
    maps = heads(seed=1)
    other = [*P[:2], 590.0, *P[3:5], 720.0, 170.5, *P[7:]]
    metas = [META, {**META, "calibration": other}, META]
    found = SpaceDecode(spec())({name: np.repeat(value, 3, axis=0) for name, value in maps.items()}, metas)
    for one, matrix in zip(found, (P, other, P), strict=True):
        assert isinstance(one, Boxes3D)
        assert_is(one, by_loops(maps, spec(), matrix))
        np.testing.assert_array_equal(one.calibration.reshape(-1), np.float32(matrix))


def test_the_fault_is_the_shift_of_the_map() -> None:
    """At 1242 x 375 and the usual 384 x 1280 the height of a box is about a pixel off."""
    meta = {**META, "input": [384, 1280]}
    (official,), (mended,) = (SpaceDecode(spec(fixed=fixed))(heads(seed=1), [meta]) for fixed in (False, True))
    assert isinstance(official, Boxes3D)
    assert isinstance(mended, Boxes3D)
    extra = (official.boxes[:, 2:] - official.boxes[:, :2]) - (mended.boxes[:, 2:] - mended.boxes[:, :2])
    expected = [621.0 - 160 * 1242 / 320, 187.5 - 48 * 1242 / 320]
    np.testing.assert_allclose(extra, np.broadcast_to(expected, extra.shape), atol=1e-2)
    assert abs(expected[1]) == pytest.approx(1.2, abs=0.01)


def test_the_preprocess_takes_the_whole_width_and_float32() -> None:
    """Against the original's lines: no resize, scale is the width, normalised in float32."""
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    prepare = convkit_preprocess(
        {
            "kind": "centernet.affine",
            "resize": "fix_res",
            "height": 96,
            "width": 320,
            "pad": 31,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "side": "width",
            "dtype": "float32",
        }
    )
    assert prepare is not None
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)  # taller than wide
    prepared = prepare(image)
    assert prepared.meta["scale"] == 200
    centre, target = np.float32([100, 150]), np.float32([160, 48])
    source = np.stack([centre, centre + np.float32([0, -100]), centre + np.float32([-100, -100])])
    wanted = np.stack([target, target + np.float32([0, -160]), target + np.float32([-160, -160])])
    warped = cv2.warpAffine(image, cv2.getAffineTransform(source, wanted), (320, 96), flags=cv2.INTER_LINEAR)
    expected = (warped.astype(np.float32) / 255.0 - mean) / std
    np.testing.assert_array_equal(prepared.tensors["images"], expected.transpose(2, 0, 1))
