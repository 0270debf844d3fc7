"""The kernels for poses, run on the host, against loops in float64 and, to the bit, against the host's own decode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from support.decoding import DTYPES, OnHost, described, metas_for
from support.poses import assert_is, by_loops, heads, spec

from convkit import DeviceDecode, Poses
from convkit.cuda import ArrayView
from convkit.errors import KernelArgumentError
from convkit.testing.cuda_host import host_device
from convkit_models.centernet.tasks.multi_pose import CudaPoseDecode, PoseDecode, plan_poses

pytestmark = pytest.mark.filterwarnings("error")

Tensors = Mapping[str, torch.Tensor]


def tensors(joints: int = 3, height: int = 12, width: int = 16, **options: Any) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in heads(joints, height, width, **options).items()}


def assert_equal(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Poses)
        assert isinstance(other, Poses)
        assert (one.joints, one.edges) == (other.joints, other.edges)
        for name in ("boxes", "scores", "points"):
            left, right = (getattr(each, name).view(np.uint32) for each in (one, other))
            np.testing.assert_array_equal(left, right, err_msg=name)


def check(settings: Mapping[str, Any], outputs: Tensors, *, loops: bool = True, **options: Any) -> list[Poses]:
    """Decode with the kernels, the host's decode and, unless told otherwise, loops; compare, return what was found."""
    values = {name: value.float().numpy() for name, value in outputs.items()}
    first = next(iter(outputs.values()))
    sides = first.shape[2:] if first.dim() == 4 else (12, 16)
    metas = metas_for(len(first), *sides)
    launch = OnHost(settings, outputs, kind=CudaPoseDecode)
    found = launch(metas, **options)
    with np.errstate(invalid="ignore"):  # infinities and NaN
        assert_equal(found, PoseDecode(settings)(values, metas))
    if loops:
        for index, meta in enumerate(metas):
            assert_is(found[index], by_loops(values, settings, meta, index), len(settings["joints"]))
    return found


@pytest.mark.parametrize(("joints", "topk"), [(17, 100), (3, 5), (1, 1)])
def test_heads(joints: int, topk: int) -> None:
    """More people asked for than there are peaks, and fewer people and candidates than there are."""
    for seed in range(2):
        check(spec(joints=joints, topk=topk), tensors(joints, batch=2, seed=seed), guard=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last_in_any_dtype(dtype: str) -> None:
    maps = {name: value.to(DTYPES[dtype]) for name, value in tensors(batch=2, seed=4).items()}
    last = {name: value.to(memory_format=torch.channels_last) for name, value in maps.items()}
    if dtype == "bfloat16":
        last["hps"] = maps["hps"]  # each output may have a layout of its own
    check(spec(topk=9), last, guard=True)
    if dtype == "float16":
        check(spec(topk=9), maps, guard=True)


@pytest.mark.parametrize("gone", [("reg",), ("hp_offset",), ("hm_hp",), ("hm_hp", "hp_offset")])
def test_heads_that_may_be_absent(gone: tuple[str, ...]) -> None:
    maps = {name: value for name, value in tensors(seed=1).items() if name not in gone}
    if gone == ("hm_hp",):
        maps["hp_offset"][:] = 1e9  # of no use then
    check(spec(), maps, guard=True)


def test_channels_with_gaps() -> None:
    """Engines pad channels-last maps; what is in the padding does not matter."""
    maps = tensors(batch=2)
    for name, value in maps.items():
        padded = torch.full((2, 12, 16, 40), 1e9)
        padded[..., : value.shape[1]] = value.permute(0, 2, 3, 1)
        maps[name] = padded.permute(0, 3, 1, 2)[:, : value.shape[1]]
    check(spec(), maps)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (5, 7)])
def test_odd_sizes(height: int, width: int) -> None:
    check(spec(topk=30), tensors(3, height, width, batch=2), guard=True)
    check(spec(topk=30), tensors(3, height, width, batch=2), guard="start")


def test_ties_and_plateaus() -> None:
    """Equal values: of people, of a joint's peaks, and of distances, where the better candidate counts."""
    maps = tensors(seed=5)
    for name in ("hm", "hm_hp", "hps"):
        maps[name] = maps[name].round()
    maps["hp_offset"][:] = 0.5
    maps["hm"][0, 0, 3:6, 3:6] = 4
    maps["hm_hp"][0, 1, :3, :3] = 6
    for topk in (7, 60):
        check(spec(topk=topk), maps)
    check(spec(topk=7), maps, races=True)
    check(spec(topk=7), maps, order=3)


@pytest.mark.parametrize("topk", [20, 1100])
def test_more_peaks_than_the_list_holds(topk: int) -> None:
    """Every cell of a flat map is a peak: the bound is found on the map then, among keys of equal values."""
    maps = tensors(2, 48, 50)
    maps["hm_hp"][0, 0] = 0.25
    maps["hm_hp"][0, 1, ::2, ::2] += 9
    found = check(spec(joints=2, topk=topk), maps, loops=topk == 20)
    assert found[0].points.shape[1] == 2
    check(spec(joints=2, topk=topk), maps, loops=False, order="reverse")


def test_the_threshold_is_exclusive() -> None:
    """Logits around that of 0.1, a float32 apart: some of their scores exceed it, and some do not."""
    logits = np.float32(-2.1972246) + np.arange(-6, 6, dtype=np.float32) * np.spacing(np.float32(2.1972246))
    taken = []
    for logit in logits:
        maps = tensors(1, 8, 8)
        for name, value in (("hm", -9), ("hm_hp", -9), ("wh", 9), ("hps", 0), ("reg", 0), ("hp_offset", 0)):
            maps[name][:] = value
        maps["hm"][0, 0, 4, 4], maps["hm_hp"][0, 0, 4, 5] = 2, float(logit)
        points = check(spec(joints=1, topk=1), maps, loops=False)[0].points
        taken.append(bool(points[0, 0, 0] > metas_for(1, 8, 8)[0]["center"][0]))
    assert taken == sorted(taken)
    assert True in taken
    assert False in taken


def test_a_joint_far_away_stays_there() -> None:
    """The places of candidates that do not count are nearer to it than any that does, in a box that holds them all."""
    maps = tensors(1, 8, 8)
    maps["hm"][:], maps["hm_hp"][:], maps["wh"][:], maps["hps"][:] = -9, -9, 1e5, -9.5e3
    maps["hm"][0, 0, 4, 4] = maps["hm_hp"][0, 0, 4, 6] = 2
    far = check(spec(joints=1, topk=2), maps, loops=False)
    full = check(spec(joints=1, topk=1), maps, loops=False)
    assert far[0].points[0, 0, 0] < -1e5 < full[0].points[0, 0, 0], "with K candidates there is no such place"


@pytest.mark.parametrize("value", [-1e4, -np.inf, np.nan])
def test_nobody(value: float) -> None:
    maps = tensors(batch=2)
    maps["hm"][1] = value
    found = check(spec(), maps, loops=False)
    assert [len(each) > 0 for each in found] == [True, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["hm", "wh", "reg", "hps", "hm_hp", "hp_offset"])
def test_what_is_no_number(name: str, value: float) -> None:
    maps = tensors(seed=2)
    maps[name][torch.from_numpy(np.random.default_rng(0).random(tuple(maps[name].shape)) < 0.1)] = value
    values = {name: value.numpy() for name, value in maps.items()}
    metas = metas_for(1)
    with np.errstate(invalid="ignore"):
        (expected,) = PoseDecode(spec())(values, metas)
    (found,) = OnHost(spec(), maps, kind=CudaPoseDecode)(metas)
    assert isinstance(expected, Poses)
    for each in ("boxes", "scores", "points"):
        np.testing.assert_array_equal(getattr(found, each), getattr(expected, each))  # NaN has many bits


def test_launches_leave_their_scratch_memory_as_it_was() -> None:
    with host_device() as gpu:
        decode = PoseDecode(spec(topk=9)).on_device()
        for seed in (0, 1):
            maps = heads(batch=2, seed=seed)
            metas = metas_for(2)
            matrices = np.stack([decode.values(meta)["output_to_image"] for meta in metas])
            results = {each.name: gpu.allocate((2, *each.shape), each.dtype) for each in decode.results}
            outputs = {name: gpu.upload(value) for name, value in maps.items()}
            decode.launch(outputs, {"output_to_image": gpu.upload(matrices)}, results, gpu.stream)
            found = decode.read({name: value.values for name, value in results.items()}, metas)
            assert_equal(found, PoseDecode(spec(topk=9))(maps, metas))


def test_the_variants_are_those_that_are_launched() -> None:
    for topk in (100, 1100):
        maps = {name: value.half() for name, value in tensors(17, 32, 32).items()}
        decode = PoseDecode(spec(joints=17, topk=topk)).on_device()
        assert isinstance(decode, DeviceDecode)
        launched = [step.variant for step in decode.plan(described(maps)).steps]
        assert [each.kernel.name for each in launched] == ["convkit_ctdet", "convkit_poses"]
        assert launched[1] in decode.kernels()


def rows(joints: int, topk: int, *, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Return rows of which some in the middle have no score, as a graph that found too few people gives at the end."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-50, 300, (batch, topk, 6 + 2 * joints)).astype(np.float32)
    values[..., 4] = np.sort(rng.uniform(0, 1, (batch, topk)))[:, ::-1]
    values[..., 4][rng.uniform(size=(batch, topk)) < 0.3] = 0
    return torch.from_numpy(values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("joints", "topk"), [(17, 100), (1, 1), (3, 300)])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_that_the_graph_chose(dtype: str, joints: int, topk: int, transposed: bool) -> None:
    settings, poses = spec("detections", joints, topk), rows(joints, topk).to(DTYPES[dtype])
    if transposed:  # as a graph's transpose may leave them
        poses = poses.transpose(1, 2).contiguous().transpose(1, 2)
    found = check(settings, {"poses": poses}, loops=False, guard=True, races=True)
    assert any(len(each) < topk for each in found) or topk == 1


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((1, 20, 39), "float32", "poses"),
        ((1, 20, 12), "float64", "is float64"),
        ((1, 20), "float32", "needs 3 axes"),
        ((0, 20, 12), "float32", "none empty"),
    ],
)
def test_rows_that_the_kernel_does_not_take(shape: tuple[int, ...], dtype: str, said: str) -> None:
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    with pytest.raises(KernelArgumentError, match=said):
        plan_poses(spec("detections"), {"poses": ArrayView(shape, strides, dtype)}, None)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("hps", None, "'hps' is missing"),
        ("hps", ArrayView((1, 4, 12, 16), (768, 192, 16, 1), "float32"), r"expected \[1, 6, 12, 16\]"),
        ("hm", ArrayView((1, 2, 12, 16), (384, 192, 16, 1), "float32"), r"expected \[1, 1, 12, 16\]"),
        ("hm_hp", ArrayView((1, 3, 12, 16), (576, 192, 16, 1), "float16"), "is float16"),
        ("hp_offset", ArrayView((1, 2, 12, 16), (384, 192, 1, 12), "float32"), "strides"),
    ],
)
def test_heads_that_the_kernels_do_not_take(name: str, change: ArrayView | None, said: str) -> None:
    views: dict[str, ArrayView | None] = {**described(tensors()), name: change}
    with pytest.raises(KernelArgumentError, match=said):
        plan_poses(spec(), {name: view for name, view in views.items() if view is not None}, None)


def test_too_many_people() -> None:
    with pytest.raises(KernelArgumentError, match="at most 2048 people"):
        PoseDecode(spec(topk=2049)).on_device()
