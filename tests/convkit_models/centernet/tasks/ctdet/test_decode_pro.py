"""The mode of tensorRT_Pro against loops that say what its kernels do, and its kernel against that, to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from support.decoding import DTYPES, OnHost, assert_equal, heads, metas_for, packed
from support.every_case import crossed

from convkit import Detections
from convkit.errors import SettingError
from convkit_models.centernet import convkit_decode
from convkit_models.centernet.tasks.ctdet import ProDecode, Tuning

pytestmark = pytest.mark.filterwarnings("error")


def spec(
    form: str = "heads", classes: int = 3, topk: int = 100, confidence: float = 0.3, **more: Any
) -> dict[str, Any]:
    return {
        "kind": "centernet.ctdet",
        "mode": "tensorrt-pro",
        "confidence": confidence,
        "nms": 0.5,
        "form": form,
        "stride": 4,
        "topk": topk,
        "sizes_per_class": False,
        "classes": [f"thing {index}" for index in range(classes)],
        **more,
    }


def by_loops(maps: Mapping[str, torch.Tensor], settings: Mapping[str, Any], meta: Mapping[str, Any]) -> list[Any]:
    """Return (score, class, box) of the first sample, in float64."""
    hm, wh, reg = (maps[name][0].double().numpy() for name in ("hm", "wh", "reg"))
    classes, height, width = hm.shape
    least = -math.log(1 / settings["confidence"] - 1)
    ratio = meta["scale"] / width
    objects = []
    for y in range(height):
        for x in range(width):
            best, label, found = hm[0, y, x], 0, False
            for index in range(classes):
                value = hm[index, y, x]
                pooled = hm[index, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].max()
                if value == pooled and value >= least:
                    found = True
                    if value > best:
                        best, label = value, index
            if found:
                centre, half = np.array([x, y]) + reg[:, y, x], wh[:, y, x] / 2
                corners = np.stack([centre - half, centre + half]) - [width / 2, height / 2]
                box = (corners * ratio + meta["center"]).reshape(4)
                objects.append((-best, label, y * width + x, box))
    objects.sort(key=lambda item: item[:3])
    kept = []
    for place, (value, label, _, box) in enumerate(objects):
        if all(other[1] != label or overlap(other[3], box) <= settings["nms"] for other in objects[:place]):
            kept.append((1 / (1 + math.exp(value)), label, box))
    return kept[: settings["topk"]]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    both = float(sides.prod())
    return both / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - both)


def host(maps: Mapping[str, torch.Tensor], settings: Mapping[str, Any], metas: Any) -> list[Detections]:
    found = ProDecode(settings)({name: value.float().numpy() for name, value in maps.items()}, metas)
    assert all(isinstance(result, Detections) for result in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("confidence", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("form", ["heads", "tensorrt-pro"])
@pytest.mark.parametrize("classes", [1, 3, 40])
def test_against_loops(form: str, classes: int, confidence: float) -> None:
    maps, settings, metas = heads(1, classes, seed=classes), spec(form, classes, 1000, confidence), metas_for(1)
    expected = by_loops(maps, settings, metas[0])
    (found,) = host(maps if form == "heads" else packed(maps), settings, metas)
    assert found.class_ids.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [box for _, _, box in expected], atol=1e-3)


def test_class_0_takes_a_cell_with_a_logit_that_is_no_peak() -> None:
    maps = heads(1, 3)
    maps["hm"][:] = -9
    maps["hm"][0, 0, 4, 4:6] = torch.tensor([2.0, 3.0])
    maps["hm"][0, 2, 4, 4] = 1
    settings = spec(nms=0.999)
    (found,) = host(maps, settings, metas_for(1))
    assert found.class_ids.tolist() == [0, 0]
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))], rtol=1e-6)


def test_suppression_is_by_class_and_a_dropped_box_still_drops_others() -> None:
    maps = heads(1, 2)
    maps["hm"][:] = -9
    maps["reg"][:] = 0
    maps["wh"][:] = torch.tensor([8.0, 4.0]).view(1, 2, 1, 1)
    for label, x, value in ((0, 2, 3.0), (0, 4, 2.0), (0, 6, 1.0), (1, 8, 0.5)):
        maps["hm"][0, label, 5, x] = value
    (found,) = host(maps, spec(classes=2), metas_for(1))
    assert found.class_ids.tolist() == [0, 1]


@crossed(form=["heads", "cells", "tensorrt-pro"], dtype=[*DTYPES], classes=[1, 3, 40])
def test_the_kernel_gives_the_same(form: str, dtype: str, classes: int) -> None:
    maps = {name: value.to(DTYPES[dtype]) for name, value in heads(2, classes).items()}
    outputs = packed(maps) if form == "tensorrt-pro" else maps
    if form == "cells":
        outputs = {name: value.to(memory_format=torch.channels_last) for name, value in maps.items()}
    settings, metas = spec("heads" if form == "cells" else form, classes), metas_for(2)
    expected = host(outputs, settings, metas)
    assert len(expected[0])
    assert_equal(OnHost(settings, outputs)(metas, guard=True), expected)


@pytest.mark.parametrize("topk", [50, 2000])
@pytest.mark.parametrize("kind", ["rounded", "flat", "low", "nan", "many"])
def test_the_kernel_on_awkward_maps(kind: str, topk: int) -> None:
    maps = heads(1, 4, 48, 32)
    hm, rng = maps["hm"], np.random.default_rng(0)
    if kind == "rounded":
        hm[:] = hm.round()
    elif kind == "flat":
        hm[:] = 0.25
    elif kind == "low":
        hm[:] = -20
    elif kind == "nan":
        hm[torch.from_numpy(rng.random(hm.shape) < 0.05)] = torch.nan
        maps["wh"][0, :, 3] = torch.nan
    else:
        hm[0, 1] = torch.from_numpy(rng.integers(1, 9, (48, 1)).astype(np.float32))
        hm[0, 0, 3] = 7
    settings, metas = spec(classes=4, topk=topk), metas_for(1, 48, 32)
    expected = host(maps, settings, metas)
    assert bool(len(expected[0])) == (kind != "low")
    launch = OnHost(settings, maps, Tuning(threads=64))
    for order in ("forward", "reverse", 3):
        assert_equal(launch(metas, order=order), expected)
    assert not launch.scratch["scratch"][:2].any()


def test_sizes_per_class_without_offsets() -> None:
    maps = heads(2, sizes=6)
    del maps["reg"]
    settings, metas = spec(sizes_per_class=True), metas_for(2)
    assert_equal(OnHost(settings, maps)(metas), host(maps, settings, metas))


def test_the_hook_knows_the_mode() -> None:
    assert isinstance(convkit_decode(spec()), ProDecode)
    decode = convkit_decode(spec()).on_device()
    assert {variant.kernel.name for variant in decode.kernels()} == {"convkit_ctdet_pro"}


@pytest.mark.parametrize("change", [{"form": "detections"}, {"confidence": 0.0}, {"confidence": 1.0}, {"nms": -0.1}])
def test_settings_that_cannot_be_obeyed(change: Mapping[str, Any]) -> None:
    with pytest.raises(SettingError):
        ProDecode({**spec(), **change})
