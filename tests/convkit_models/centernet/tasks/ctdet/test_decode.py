"""The decoding against loops over every cell, and against PyTorch's pooling and top-K."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from support.suppression import suppress_by_loops
from torch import nn

from convkit import Detections
from convkit.errors import SettingError
from convkit_models.centernet.tasks.ctdet import CtdetDecode, find_peaks, max_pool, output_patch, reference

pytestmark = pytest.mark.filterwarnings("error")

META = {"center": [320.0, 240.0], "scale": 640.0, "input": [48, 64]}


def spec(form: str = "heads", classes: int = 3, topk: int = 100, sizes_per_class: bool = False) -> dict[str, Any]:
    names = [f"thing {index}" for index in range(classes)]
    return {"form": form, "stride": 4, "topk": topk, "sizes_per_class": sizes_per_class, "classes": names}


def heads(classes: int = 3, height: int = 12, width: int = 16, *, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "hm": (2.5 * rng.standard_normal((1, classes, height, width)) - 2).astype(np.float32),
        "wh": rng.uniform(0, 9, (1, 2, height, width)).astype(np.float32),
        "reg": rng.uniform(0, 1, (1, 2, height, width)).astype(np.float32),
    }


def decode(outputs: Mapping[str, np.ndarray], settings: Mapping[str, Any], *metas: Mapping[str, Any]) -> Detections:
    found = CtdetDecode(settings)(outputs, metas or [META])
    assert all(isinstance(result, Detections) for result in found)
    return found[0]  # type: ignore[return-value]


def by_loops(
    maps: Mapping[str, np.ndarray], settings: Mapping[str, Any], meta: Mapping[str, Any]
) -> list[tuple[list[float], float, int]]:
    """Return (box, score, class) of the first sample, by the definition, in float64."""
    hm = maps["hm"][0].astype(np.float64)
    classes, height, width = hm.shape
    out_width, out_height = meta["input"][1] // 4, meta["input"][0] // 4
    found = []
    for label in range(classes):
        for y in range(height):
            for x in range(width):
                value = hm[label, y, x]
                if value < hm[label, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max():
                    continue
                dx, dy = maps["reg"][0, :, y, x].astype(float) if "reg" in maps else (0.5, 0.5)
                first = 2 * label if settings["sizes_per_class"] else 0
                w, h = maps["wh"][0, first : first + 2, y, x].astype(float)
                ratio = meta["scale"] / out_width
                box = [
                    (x + dx - w / 2 - out_width / 2) * ratio + meta["center"][0],
                    (y + dy - h / 2 - out_height / 2) * ratio + meta["center"][1],
                    (x + dx + w / 2 - out_width / 2) * ratio + meta["center"][0],
                    (y + dy + h / 2 - out_height / 2) * ratio + meta["center"][1],
                ]
                found.append((-value, label, y * width + x, box))
    found.sort(key=lambda item: item[:3])
    return [(box, 1 / (1 + math.exp(value)), label) for value, label, _, box in found[: settings["topk"]]]


def assert_is(found: Detections, expected: list[tuple[list[float], float, int]]) -> None:
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    assert found.class_ids.tolist() == [label for _, _, label in expected]
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=2e-6)
    np.testing.assert_allclose(found.boxes, np.array([box for box, _, _ in expected]).reshape(-1, 4), atol=1e-3)


@pytest.mark.parametrize("topk", [1, 5, 100])
@pytest.mark.parametrize("classes", [1, 3, 7])
def test_heads_against_loops(classes: int, topk: int) -> None:
    maps, settings = heads(classes), spec(classes=classes, topk=topk)
    assert_is(decode(maps, settings), by_loops(maps, settings, META))


def test_without_offsets_boxes_sit_in_the_middle_of_cells() -> None:
    maps, settings = heads(), spec()
    del maps["reg"]
    assert_is(decode(maps, settings), by_loops(maps, settings, META))


def test_sizes_per_class() -> None:
    maps, settings = heads(), spec(sizes_per_class=True)
    maps["wh"] = np.random.default_rng(4).uniform(0, 9, (1, 6, 12, 16)).astype(np.float32)
    assert_is(decode(maps, settings), by_loops(maps, settings, META))


def test_heads_against_the_official_top_k() -> None:
    """Sigmoid, pooling and the two top-Ks of the original, in torch, at full size; scores to an ulp.

    The logits are spaced so that float32 sigmoids of different ones differ: ties have no order there.
    """
    rng = np.random.default_rng(0)
    hm = rng.permutation(np.linspace(-12, 2, 80 * 128 * 128)).reshape(1, 80, 128, 128).astype(np.float32)
    maps = {"hm": hm, "wh": rng.random((1, 2, 128, 128), np.float32), "reg": rng.random((1, 2, 128, 128), np.float32)}
    heat = torch.from_numpy(hm).sigmoid()
    heat = heat * (nn.functional.max_pool2d(heat, 3, 1, 1) == heat).float()
    class_scores, class_cells = heat.view(1, 80, -1).topk(100)
    scores, picks = class_scores.view(1, -1).topk(100)
    cells, labels = class_cells.view(1, -1).gather(1, picks)[0].numpy(), (picks // 100)[0].numpy()
    meta = {"center": [64.0, 64.0], "scale": 128.0, "input": [512, 512]}
    found = decode(maps, spec(classes=80), meta)
    np.testing.assert_allclose(found.scores, scores[0].numpy(), rtol=2.5e-7)
    np.testing.assert_array_equal(found.class_ids, labels)
    centres = np.stack([cells % 128, cells // 128], 1) + maps["reg"][0].reshape(2, -1)[:, cells].T
    np.testing.assert_allclose((found.boxes[:, :2] + found.boxes[:, 2:]) / 2, centres, atol=1e-4)


class Canned(nn.Module):
    def __init__(self, maps: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.maps = {name: torch.from_numpy(value) for name, value in maps.items()}

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [self.maps]


@pytest.mark.parametrize("with_offsets", [True, False])
@pytest.mark.parametrize("form", ["tensorrt-pro", "detections"])
def test_all_forms_decode_to_the_same(form: str, with_offsets: bool) -> None:
    maps = heads()
    if not with_offsets:
        del maps["reg"]
    expected = decode(maps, spec())
    settings = spec(form)
    for output in (
        reference(settings)(Canned(maps), {"images": torch.zeros(1)}),
        {settings["form"].replace("tensorrt-pro", "output"): graph_form(maps, settings)},
    ):
        found = decode({name: value.numpy() for name, value in output.items()}, settings)
        np.testing.assert_array_equal(found.class_ids, expected.class_ids)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=2.5e-7)


def graph_form(maps: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> torch.Tensor:
    module = Canned(maps)
    result: torch.Tensor = output_patch(settings).forward(module, module.forward, torch.zeros(1))[0]
    return result


@pytest.mark.parametrize("form", ["heads", "tensorrt-pro"])
def test_ties_go_to_the_lower_class_and_then_the_upper_left_cell(form: str) -> None:
    hm = np.full((1, 3, 12, 16), -4, np.float32)
    for label, y, x in ((2, 0, 0), (0, 9, 3), (0, 3, 9), (1, 5, 5), (0, 3, 2)):
        hm[0, label, y, x] = 1
    maps = {**heads(), "hm": hm, "wh": np.zeros((1, 2, 12, 16), np.float32)}
    maps["reg"] = np.zeros_like(maps["wh"])
    outputs = maps if form == "heads" else {"output": graph_form(maps, spec(form)).numpy()}
    meta = {"center": [32.0, 24.0], "scale": 64.0, "input": [48, 64]}
    found = decode(outputs, spec(form, topk=4), meta)
    assert found.class_ids.tolist() == [0, 0, 0, 1]
    assert found.boxes[:, :2].tolist() == [[8, 12], [36, 12], [12, 36], [20, 20]]


def test_a_plateau_keeps_all_its_cells() -> None:
    maps = heads(classes=1)
    maps["hm"][:] = -7
    maps["hm"][0, 0, 4:6, 5:7] = 3
    assert int((decode(maps, spec(classes=1)).scores > 0.5).sum()) == 4


def test_one_cell_may_give_several_classes() -> None:
    maps = heads()
    maps["hm"][:] = -7
    maps["hm"][0, :, 6, 6] = 3, 2, 1
    found = decode(maps, spec(topk=3))
    assert found.class_ids.tolist() == [0, 1, 2]
    assert (found.boxes == found.boxes[0]).all()


@pytest.mark.parametrize("form", ["heads", "tensorrt-pro", "detections"])
def test_fewer_peaks_than_asked_for(form: str) -> None:
    maps = heads(classes=1)
    maps["hm"][0, 0] = np.arange(192, dtype=np.float32).reshape(12, 16) / 100
    settings = spec(form, classes=1, topk=50)
    outputs = maps if form == "heads" else {
        "output" if form == "tensorrt-pro" else "detections": graph_form(maps, settings).numpy()
    }  # fmt: skip
    found = decode(outputs, settings)
    assert len(found) == 1
    assert found.scores[0] == pytest.approx(1 / (1 + math.exp(-1.91)))


def test_no_peak_at_all() -> None:
    maps = heads()
    maps["hm"][:] = -200
    assert len(decode(maps, spec())) == 0


def test_very_low_logits_are_quiet_and_nan_is_no_peak() -> None:
    maps = heads(classes=1)
    maps["hm"][:] = -1e30
    maps["hm"][0, 0, 2, 2] = 1
    maps["hm"][0, 0, 8, 8] = np.nan
    with np.errstate(all="raise"):
        found = decode(maps, spec(classes=1))
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-1))])


def test_a_batch_gives_each_image_its_own_place() -> None:
    one, two = heads(seed=1), heads(seed=2)
    both = {name: np.concatenate([one[name], two[name]]) for name in one}
    other = {"center": [50.0, 60.0], "scale": 99.0, "input": [48, 64]}
    found = CtdetDecode(spec())(both, [META, other])
    for result, maps, meta in zip(found, (one, two), (META, other), strict=True):
        assert isinstance(result, Detections)
        assert_is(result, by_loops(maps, spec(), meta))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_types(dtype: Any) -> None:
    maps = {name: value.astype(dtype) for name, value in heads().items()}
    found = decode(maps, spec(topk=10))
    assert_is(found, by_loops(maps, spec(topk=10), META))


def test_results_know_the_class_names() -> None:
    found = decode(heads(), spec())
    assert found.class_name(1) == "thing 1"
    assert found.to_json()["detections"][0]["class_name"] == f"thing {found.class_ids[0]}"


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
        elements=st.floats(-9, 9, width=32),
    )
)
def test_pooling_against_torch(planes: np.ndarray) -> None:
    expected = nn.functional.max_pool2d(torch.from_numpy(planes), 3, stride=1, padding=1)
    np.testing.assert_array_equal(max_pool(planes), expected.numpy())


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([np.float32(np.nan), -np.inf, np.inf, 0, 1]),
    )
)
@example(np.full((2, 3, 4), -np.inf, np.float32))
@example(np.array([[[-np.inf, -np.inf, 1, 0]]], np.float32))
def test_peaks_among_nan_against_torch(planes: np.ndarray) -> None:
    """Pooling in torch hands NaN on, so a neighbour of NaN equals no pooled value: it is no peak."""
    pooled = nn.functional.max_pool2d(torch.from_numpy(planes), 3, stride=1, padding=1).numpy()
    np.testing.assert_array_equal(find_peaks(planes, 1000), np.flatnonzero(planes == pooled))


@pytest.mark.parametrize("kind", ["noise", "smooth", "few", "flat", "nan"])
def test_peaks_found_above_the_floor_are_the_best(kind: str) -> None:
    """Whichever way the peaks are found, the best are those of the pooled map."""
    rng = np.random.default_rng(5)
    planes = rng.standard_normal((6, 64, 48)).astype(np.float32)
    if kind == "smooth":
        planes = np.stack([cv2.GaussianBlur(plane, (0, 0), 2) for plane in planes])
    elif kind == "few":
        planes = np.linspace(0, 1, planes.size, dtype=np.float32).reshape(planes.shape)
    elif kind == "flat":
        planes[:] = 0.25
    elif kind == "nan":
        planes[3, 5] = np.nan
    pooled = nn.functional.max_pool2d(torch.from_numpy(planes), 3, stride=1, padding=1).numpy()
    every = np.flatnonzero(planes == pooled)
    found = find_peaks(planes, 20)
    best = np.sort(planes.reshape(-1)[every])[-20:]
    assert set(found) <= set(every)
    np.testing.assert_array_equal(np.sort(planes.reshape(-1)[found])[-20:], best)


def averaged(plain: Mapping[str, np.ndarray], flipped: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return heads in float64, whose heat map is the logits of the mean probabilities of an image and its mirror."""
    own, other = ({name: value.astype(np.float64) for name, value in maps.items()} for maps in (plain, flipped))
    mean = (1 / (1 + np.exp(-own["hm"])) + 1 / (1 + np.exp(-other["hm"][..., ::-1]))) / 2
    return {**own, "hm": np.log(mean / (1 - mean)), "wh": (own["wh"] + other["wh"][..., ::-1]) / 2}


def joined_by_loops(
    views: list[dict[str, np.ndarray]],
    metas: list[dict[str, Any]],
    settings: Mapping[str, Any],
    *,
    flip: bool,
    nms: bool,
    fixed: bool,
) -> list[tuple[list[float], float, int]]:
    """Return (box, score, class), best first: means, suppression in each class, then a hundred and those as good."""
    rows: dict[int, list[list[float]]] = {}
    for index in range(0, len(views), 1 + flip):
        maps = averaged(*views[index : index + 2]) if flip else views[index]
        for box, score, label in by_loops(maps, settings, metas[index]):
            rows.setdefault(label, []).append([*(value / metas[index]["test_scale"] for value in box), score])
    found = []
    for label, boxes in sorted(rows.items()):
        count = suppress_by_loops(boxes) if nms else len(boxes)
        found += [(row[:4], row[4], label) for row in (boxes[:count] if fixed else boxes)]
    found.sort(key=lambda each: -each[1])
    return [each for each in found if len(found) <= 100 or each[1] >= found[99][1]]


@pytest.mark.parametrize(("form", "sizes_per_class"), [("heads", False), ("heads", True), ("tensorrt-pro", False)])
@pytest.mark.parametrize(
    ("scales", "flip", "nms", "fixed"),
    [
        (1, True, False, False),
        (1, False, True, False),
        (3, False, True, False),
        (3, True, True, False),
        (3, True, True, True),
    ],
)
def test_views_are_joined_as_by_loops(form, scales, flip, nms, fixed, sizes_per_class):
    """K is so high that a hundred boxes are left over, and so many overlap that some fall away."""
    options = spec(form, classes=3, topk=60, sizes_per_class=sizes_per_class)
    views, metas, outputs = [], [], []
    for index in range(scales):
        for flipped in (False, True)[: 1 + flip]:
            maps = heads(3, seed=30 + 2 * index + flipped)
            if sizes_per_class:
                maps["wh"] = np.random.default_rng(index).uniform(0, 9, (1, 6, 12, 16)).astype(np.float32)
            views.append(maps)
            metas.append({**META, "test_scale": (1.0, 0.5, 1.5)[index], "flipped": flipped})
            outputs.append({name: value[0] for name, value in (maps if form == "heads" else packed(maps)).items()})
    augment = {
        "flip": "yes" if flip else "no",
        "scales": "1,0.5,1.5" if scales > 1 else "1",
        "nms": "yes" if nms and scales == 1 else "no",
        "suppression": "fixed" if fixed else "official",
    }
    expected = joined_by_loops(views, metas, options, flip=flip, nms=nms, fixed=fixed)
    found = CtdetDecode(options).joining(augment)(outputs, metas)
    assert len(found) == len(expected) > 50
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], rtol=3e-5)
    assert found.class_ids.tolist() == [label for _, _, label in expected]
    np.testing.assert_allclose(found.boxes, [box for box, _, _ in expected], rtol=1e-5, atol=2e-3)


def packed(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    pooled = max_pool(maps["hm"][0])[None]
    joined = np.concatenate([maps["reg"], maps["wh"], maps["hm"], pooled], axis=1)
    return {"output": np.ascontiguousarray(joined.reshape(1, joined.shape[1], -1).transpose(0, 2, 1))}


def test_the_mirror_of_both_views_gives_mirrored_boxes():
    """Without offsets, which are those of the image alone, the views change places and nothing else changes."""
    maps, other = ({name: heads(seed=seed)[name][0] for name in ("hm", "wh")} for seed in (1, 2))
    meta = {"center": [32.0, 24.0], "scale": 64.0, "input": [48, 64], "test_scale": 1.0}
    join = CtdetDecode(spec()).joining({"flip": "yes"})
    found, swapped = join([maps, other], [meta] * 2), join([other, maps], [meta] * 2)
    np.testing.assert_array_equal(found.scores, swapped.scores)
    back = swapped.boxes[:, [2, 1, 0, 3]] * np.float32([-1, 1, -1, 1]) + np.float32([64, 0, 64, 0])
    by_place = [np.lexsort(each.T) for each in (found.boxes, back)]
    np.testing.assert_allclose(found.boxes[by_place[0]], back[by_place[1]], atol=1e-4)


def test_what_chose_one_image_cannot_be_averaged_but_scaled():
    with pytest.raises(SettingError, match="nothing to average") as caught:
        CtdetDecode(spec("detections")).joining({"flip": "yes"})
    assert "--form heads" in caught.value.hint
    rows = {"detections": np.array([[4, 4, 20, 20, 0.9, 1], [0, 0, 0, 0, 0, 0]], np.float32)}
    metas = [{**META, "test_scale": scale} for scale in (1.0, 2.0)]
    found = CtdetDecode(spec("detections")).joining({"scales": "1,2"})([rows, rows], metas)
    assert len(found) == 2
