"""The decoding of poses against loops in float64, the original's steps in PyTorch, and its own graph form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from support.poses import META, Maps, assert_is, by_loops, heads, spec
from support.suppression import suppress_by_loops
from torch import nn

from convkit import Poses
from convkit.errors import SettingError
from convkit.model import patched
from convkit.results import COCO_JOINTS
from convkit_models.centernet.tasks.multi_pose import PoseDecode, output_patch, reference

pytestmark = pytest.mark.filterwarnings("error")


def decode(maps: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Poses:
    (found,) = PoseDecode(settings)(maps, [META])
    assert isinstance(found, Poses)
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("joints", "topk"), [(1, 1), (3, 5), (17, 100)])
def test_heads_against_loops(joints: int, topk: int, seed: int) -> None:
    """K is below and above the number of peaks; peaks lie at borders; joints are accepted and rejected."""
    maps, settings = heads(joints, seed=seed), spec(joints=joints, topk=topk)
    assert_is(decode(maps, settings), by_loops(maps, settings), joints)


def test_candidates_matter_and_are_not_always_taken() -> None:
    maps, settings = heads(), spec()
    with_them = decode(maps, settings).points
    del maps["hm_hp"], maps["hp_offset"]
    moved = (with_them != decode(maps, settings).points).any(axis=-1).mean()
    assert 0.1 < moved < 0.9


@pytest.mark.parametrize("gone", [("reg",), ("hp_offset",), ("hm_hp", "hp_offset"), ("reg", "hp_offset")])
def test_heads_that_may_be_absent(gone: tuple[str, ...]) -> None:
    maps, settings = {name: value for name, value in heads().items() if name not in gone}, spec()
    assert_is(decode(maps, settings), by_loops(maps, settings), 3)


def test_ties_and_plateaus() -> None:
    """Equal values: of people, of a joint's peaks, and of distances, where the better candidate comes first."""
    maps, settings = heads(seed=5), spec(topk=7)
    maps["hm"], maps["hm_hp"] = np.round(maps["hm"]), np.round(maps["hm_hp"])
    maps["hp_offset"][:] = 0.5
    maps["hps"] = np.round(maps["hps"])
    maps["hm"][0, 0, 3:6, 3:6] = 4
    assert_is(decode(maps, settings), by_loops(maps, settings), 3)


def test_the_threshold_is_exclusive_and_the_box_inclusive() -> None:
    maps, settings = heads(1, 8, 8), spec(joints=1, topk=1)
    for name in ("reg", "hps", "hp_offset"):
        maps[name][:] = 0
    maps["hm"][:], maps["hm_hp"][:], maps["wh"][:] = -9, -9, 4
    maps["hm"][0, 0, 4, 4] = 1
    maps["hps"][0, 0, 4, 4] = 1.5
    maps["hm_hp"][0, 0, 4, 6] = -1
    ratio = META["scale"] / 16  # type: ignore[operator]
    assert decode(maps, settings).points[0, 0, 0] == 320.5 + (6 - 8) * ratio  # on the box's edge, 0.5 away
    maps["wh"][0, 0, 4, 4] = 3.9
    assert decode(maps, settings).points[0, 0, 0] == 320.5 + (5.5 - 8) * ratio  # beyond it
    maps["wh"][0, 0, 4, 4] = 4
    maps["hm_hp"][0, 0, 4, 6] = -2.2  # 0.0998
    assert decode(maps, settings).points[0, 0, 0] == 320.5 + (5.5 - 8) * ratio


@pytest.mark.parametrize("value", [-1e4, -np.inf, np.nan])
def test_nobody(value: float) -> None:
    maps = heads()
    maps["hm"][:] = value
    assert len(decode(maps, spec())) == 0


class Canned(nn.Module):
    def __init__(self, maps: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self.maps = {name: torch.from_numpy(value) for name, value in maps.items()}

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [self.maps]


@pytest.mark.parametrize("gone", [(), ("reg",), ("hp_offset",), ("hm_hp", "hp_offset")])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_graph_and_the_original_decode_to_the_same(gone: tuple[str, ...], seed: int) -> None:
    maps = {name: value for name, value in heads(batch=2, seed=seed).items() if name not in gone}
    settings = spec("detections", topk=30)
    module = Canned(maps)
    expected = PoseDecode(spec(topk=30))(maps, [META, META])
    with patched(module, [output_patch(settings)]):
        (graph,) = module(torch.zeros(1))
    official = reference(settings)(module, {"images": torch.zeros(1)})["poses"]
    assert graph.shape == official.shape == (2, 30, 6 + 2 * 3)
    assert not graph[..., -1].any()
    for rows in (graph, official):
        for found, wanted in zip(PoseDecode(settings)({"poses": rows.numpy()}, [META, META]), expected, strict=True):
            assert isinstance(found, Poses)
            assert isinstance(wanted, Poses)
            np.testing.assert_allclose(found.scores, wanted.scores, rtol=2.5e-7)
            np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
            np.testing.assert_allclose(found.points, wanted.points, atol=1e-3)


def test_flipping_the_maps_flips_the_poses() -> None:
    maps = heads(seed=3)
    mirrored = {name: value[..., ::-1].copy() for name, value in maps.items()}
    for name in ("reg", "hp_offset"):
        mirrored[name][:, 0] = -mirrored[name][:, 0]
    mirrored["hps"][:, ::2] = -mirrored["hps"][:, ::2]
    meta = {**META, "center": [0.0, 0.0]}
    (found,), (flipped,) = (PoseDecode(spec())(each, [meta]) for each in (maps, mirrored))
    assert isinstance(found, Poses)
    assert isinstance(flipped, Poses)
    ratio = META["scale"] / 16  # type: ignore[operator]
    np.testing.assert_allclose(-ratio - flipped.points[..., 0], found.points[..., 0], atol=1e-3)
    np.testing.assert_allclose(flipped.points[..., 1], found.points[..., 1], atol=1e-3)


def test_half_precision_is_widened() -> None:
    maps = {name: value.astype(np.float16) for name, value in heads().items()}
    expected = by_loops(maps, spec())
    assert_is(decode(maps, spec()), expected, 3)


PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))


def views(scales: int, flip: bool) -> tuple[list[Maps], list[dict[str, Any]]]:
    """Return outputs without a batch axis and metas of all views: 17 joints, another scale each."""
    outputs, metas = [], []
    for index in range(scales):
        for flipped in (False, True)[: 1 + flip]:
            maps = heads(17, seed=20 + 2 * index + flipped)
            outputs.append({name: value[0] for name, value in maps.items()})
            metas.append({**META, "test_scale": (1.0, 0.5, 1.5)[index], "flipped": flipped})
    return outputs, metas


def averaged(plain: Maps, flipped: Maps) -> Maps:
    """Return heads, in float64 and with the batch axis, whose heat maps are the logits of mean probabilities."""
    joined = {name: value.astype(np.float64) for name, value in plain.items()}
    for name in ("hm", "wh", "hps", "hm_hp"):
        other = flipped[name].astype(np.float64)[..., ::-1].copy()
        if name == "hps":
            other = other.reshape(17, 2, *other.shape[1:])
            other[:, 0] *= -1
        if name.startswith("h") and name != "hm":
            for left, right in PAIRS:
                other[[left, right]] = other[[right, left]]
        other = other.reshape(joined[name].shape)
        if name.startswith("hm"):
            mean = (1 / (1 + np.exp(-joined[name])) + 1 / (1 + np.exp(-other))) / 2
            joined[name] = np.log(mean / (1 - mean))
        else:
            joined[name] = (joined[name] + other) / 2
    return {name: value[None] for name, value in joined.items()}


@pytest.mark.parametrize("suppression", ["official", "fixed"])
@pytest.mark.parametrize(("scales", "flip"), [(1, True), (3, False), (3, True)])
def test_views_are_joined_as_by_loops(scales: int, flip: bool, suppression: str) -> None:
    settings = {**spec(joints=17, topk=30), "joints": list(COCO_JOINTS)}
    outputs, metas = views(scales, flip)
    augment = {
        "flip": "yes" if flip else "no",
        "scales": "1,0.5,1.5" if scales > 1 else "1",
        "suppression": suppression,
    }
    found = PoseDecode(settings).joining(augment)(outputs, metas)
    rows: list[list[float]] = []
    for index in range(0, len(outputs), 1 + flip):
        maps = {name: value[None] for name, value in outputs[index].items()}
        for score, box, points in by_loops(averaged(*outputs[index : index + 2]) if flip else maps, settings):
            scale = metas[index]["test_scale"]
            flat = [value / scale for point in points for value in point]
            rows.append([*(value / scale for value in box), score, *flat])
    if scales > 1:
        count = suppress_by_loops(rows)
        rows = rows[:count] if suppression == "fixed" else rows
    rows.sort(key=lambda row: -row[4])
    expected = np.array(rows)
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found.scores, expected[:, 4], rtol=3e-5)
    np.testing.assert_allclose(found.boxes, expected[:, :4], rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(found.points.reshape(len(found), -1), expected[:, 5:], rtol=1e-5, atol=2e-3)


def test_flip_needs_joints_with_sides_and_the_heads() -> None:
    with pytest.raises(SettingError, match="which joints a mirror exchanges"):
        PoseDecode(spec()).joining({"flip": "yes"})
    with pytest.raises(SettingError, match="nothing to average") as caught:
        PoseDecode(spec("detections")).joining({"flip": "yes"})
    assert "--form heads" in caught.value.hint
