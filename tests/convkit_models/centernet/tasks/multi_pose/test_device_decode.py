"""The kernel for poses that the graph chose, run on the host, against the host's own decode: equal to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.decoding import DTYPES, described, memory, metas_for

from convkit import DeviceDecode, Poses
from convkit.cuda import ArrayView
from convkit.errors import KernelArgumentError
from convkit.testing.cuda_host import run_on_host
from convkit_models.centernet.tasks.multi_pose import CudaPoseDecode, PoseDecode, launch_arguments

pytestmark = pytest.mark.filterwarnings("error")


def spec(joints: int = 17, topk: int = 20, form: str = "detections") -> dict[str, Any]:
    names = [f"joint {index}" for index in range(joints)]
    return {"form": form, "stride": 4, "topk": topk, "joints": names, "edges": [[0, 0]]}


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
def test_equal_to_the_host(dtype: str, joints: int, topk: int, transposed: bool) -> None:
    settings, poses = spec(joints, topk), rows(joints, topk).to(DTYPES[dtype])
    if transposed:  # as a graph's transpose may leave them
        poses = poses.transpose(1, 2).contiguous().transpose(1, 2)
    metas = metas_for(2)
    host = PoseDecode(settings)
    expected = host({"poses": poses.float().numpy()}, metas)
    device = host.on_device()
    assert isinstance(device, CudaPoseDecode)
    assert isinstance(device, DeviceDecode)
    variant, config, scalars = launch_arguments(settings, described({"poses": poses})["poses"])
    assert variant in device.kernels()
    matrices = np.stack([device.values(meta)["output_to_image"] for meta in metas])
    found = {each.name: np.full((2, *each.shape), -7, each.dtype) for each in device.results}
    run_on_host(
        variant, config, [memory(poses), matrices, found["rows"], found["counts"], *scalars], guard=True, races=True
    )
    for one, other, left, count in zip(
        device.read(found, metas), expected, found["rows"], found["counts"], strict=True
    ):
        assert isinstance(one, Poses)
        assert isinstance(other, Poses)
        assert (one.joints, one.edges) == (other.joints, other.edges)
        assert not left[count:].any()
        for name in ("boxes", "scores", "points"):
            np.testing.assert_array_equal(
                getattr(one, name).view(np.uint32), getattr(other, name).view(np.uint32), err_msg=name
            )
    assert any(found["counts"] < topk) or topk == 1


def test_heads_are_decoded_on_the_host() -> None:
    assert PoseDecode(spec(form="heads")).on_device() is None


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        ((1, 20, 39), "float32", "poses"),
        ((1, 20, 40), "float64", "is float64"),
        ((1, 20), "float32", "needs 3 axes"),
        ((0, 20, 40), "float32", "none empty"),
    ],
)
def test_what_the_kernel_does_not_take(shape: tuple[int, ...], dtype: str, said: str) -> None:
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    with pytest.raises(KernelArgumentError, match=said):
        launch_arguments(spec(), ArrayView(shape, strides, dtype))
