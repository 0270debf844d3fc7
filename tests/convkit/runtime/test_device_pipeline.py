"""The road without a GPU: its packing, buffers, padding and order, with a device and an engine made of NumPy.

The preprocess and the decode are CenterNet's kernels themselves, compiled for the host.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from support.gpu import missing_gpu
from support.road import HostAffine, HostDecode, NumpyDevice

from convkit import Detections
from convkit.backends import DeviceSession
from convkit.errors import EnvironmentProblem
from convkit.processing import synthetic_scenes
from convkit.runtime import Cuda, Road
from convkit.runtime._device_pipeline import PLANS
from convkit_models.centernet._preprocess import Affine
from convkit_models.centernet.tasks.ctdet import CtdetDecode

SIDE = 64
DECODE = {"form": "heads", "stride": 4, "topk": 5, "sizes_per_class": False, "classes": ["a", "b"]}
PREPROCESS: dict[str, Any] = {
    "resize": "fix_res", "height": SIDE, "width": SIDE, "pad": 31, "mean": [0.4, 0.45, 0.5], "std": [0.29, 0.27, 0.28],
}  # fmt: skip
SIZES = [(48, 64), (64, 48), (7, 130), (2, 3), (90, 33), (64, 64)]


class Pool(DeviceSession):
    """Heads made of an image: its channels, averaged over cells of 4 x 4 pixels. Outputs hold until the next run."""

    def __init__(self, *, capturable: bool) -> None:
        self.capturable = capturable
        self.captures = self.replays = 0
        self.batches: list[int] = []
        self.outputs: dict[tuple[int, ...], dict[str, np.ndarray]] = {}

    def buffer(self, name: str, shape: Sequence[int]) -> np.ndarray:
        assert name == "images"
        return np.full(tuple(shape), np.nan, np.float32)

    def fill(self, buffer: np.ndarray, values: np.ndarray) -> None:
        buffer[:] = values

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.batches.append(len(inputs["images"]))
        outputs = self.outputs.setdefault(inputs["images"].shape, heads(inputs["images"]))
        for name, value in heads(inputs["images"]).items():
            outputs[name][:] = value
        return outputs

    def fetch(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: value.copy() for name, value in outputs.items()}

    def capture(self, body: Callable[[], None]) -> Callable[[], None] | None:
        if not self.capturable:
            return None
        self.captures += 1

        def replay() -> None:
            self.replays += 1
            body()

        return replay


def heads(images: np.ndarray) -> dict[str, np.ndarray]:
    batch, _, height, width = images.shape
    cells = images.reshape(batch, 3, height // 4, 4, width // 4, 4).mean((3, 5), dtype=np.float32)
    return {"hm": cells[:, :2], "wh": np.abs(cells[:, 1:]) * 3, "reg": cells[:, ::2] * np.float32(0.2)}


def make_road(
    *, capturable: bool = True, least: int = 1, device_preprocess: bool = True, device_decode: bool = True
) -> Road:
    affine = Affine(PREPROCESS)
    return Road(
        NumpyDevice(), Pool(capturable=capturable), "images", prepare=affine, decode_on_host=CtdetDecode(DECODE),
        preprocess=HostAffine(affine) if device_preprocess else None,
        decode=HostDecode(DECODE) if device_decode else None, least=least,
    )  # fmt: skip


def scenes() -> list[np.ndarray]:
    return [synthetic_scenes(1, seed=n, height=h, width=w)[0] for n, (h, w) in enumerate(SIZES)]


def on_host(image: np.ndarray) -> Detections:
    prepared = Affine(PREPROCESS)(image)
    found = CtdetDecode(DECODE)(heads(prepared.tensor[None]), [prepared.meta])[0]
    assert isinstance(found, Detections)
    return found


def flow(road: Road, images: Sequence[np.ndarray], batch: int) -> list[Any]:
    items = [road.item(image) for image in images]
    return list(road.flow(items[start : start + batch] for start in range(0, len(items), batch)))


def assert_equal(found: Sequence[Any], images: Sequence[np.ndarray]) -> None:
    assert len(found) == len(images)
    for result, image in zip(found, images, strict=True):
        expected = on_host(image)
        np.testing.assert_array_equal(result.boxes, expected.boxes)
        np.testing.assert_array_equal(result.scores, expected.scores)
        np.testing.assert_array_equal(result.class_ids, expected.class_ids)


@pytest.mark.parametrize("ends", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("batch", [1, 4])
def test_results_are_those_of_the_host_bit_for_bit(ends, batch):
    images = scenes()
    road = make_road(device_preprocess=ends[0], device_decode=ends[1])
    for _ in range(2):
        assert_equal(flow(road, images, batch), images)
    road.close()


def test_a_batch_is_one_copy_there_and_one_back():
    road: Any = make_road()
    images = scenes()
    flow(road, images, 3)
    assert len(road.device.uploads) == road.device.downloads == 2
    pixels = sum(-(-image.nbytes // 16) * 16 for image in images)
    sent = sum(size for size, _ in road.device.uploads)
    assert pixels <= sent <= pixels + 2 * 512, "only pixels, records and matrices are copied"
    assert sorted(road.device.waited) == [0, 1], "results are read once they are there"
    assert [beside for _, beside in road.device.uploads] == [False, True], "the second goes beside the first"


def test_the_third_run_of_a_shape_is_captured_and_later_ones_replay_it():
    road: Any = make_road()
    images = scenes()[:2]
    for _ in range(6):
        assert_equal(flow(road, images, 2), images)
    assert road.engine.captures == 2, "one graph for each of the two slots"
    assert road.engine.replays == 4


def test_an_engine_that_cannot_be_captured_is_asked_once_and_runs_on():
    road: Any = make_road(capturable=False)
    asked = []
    capture = road.engine.capture
    road.engine.capture = lambda body: asked.append(1) or capture(body)
    images = scenes()[:2]
    for _ in range(6):
        assert_equal(flow(road, images, 2), images)
    assert len(asked) == 1


def test_a_capture_that_fails_is_no_failure():
    road: Any = make_road()

    def fail(body: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    road.engine.capture = fail
    for _ in range(4):
        assert_equal(flow(road, scenes()[:1], 1), scenes()[:1])


def test_small_batches_are_filled_up_with_the_last_image():
    road: Any = make_road(least=4)
    images = scenes()[:3]
    assert_equal(flow(road, images, 3), images)
    assert road.engine.batches == [4]
    assert road.device.uploads[0][0] < sum(image.nbytes for image in images) + 1024, "the copies share its pixels"


def test_larger_images_make_the_buffers_grow_and_nothing_else_changes():
    road = make_road()
    small, large = scenes()[0], synthetic_scenes(1, seed=9, height=700, width=900)[0]
    images = [small, large, small, small, large]
    for _ in range(3):
        assert_equal(flow(road, images, 1), images)


def test_a_stream_that_is_left_early_leaves_nothing_behind():
    road: Any = make_road()
    images = scenes()
    for start in range(3):
        stream = road.flow([[road.item(image)] for image in images[start:]])
        next(stream)
        abandoned = road.device.marks - 1
        assert abandoned not in road.device.waited
        stream.close()
        assert_equal(flow(road, images, 2), images)
        assert abandoned in road.device.waited, "its buffers were written to while it was under way"


def test_buffers_are_kept_for_so_many_shapes_only():
    road: Any = make_road(device_preprocess=False)
    affines = [Affine({**PREPROCESS, "height": 32, "width": 32 * n}) for n in range(1, PLANS + 5)]
    image = scenes()[0]
    for affine in affines:
        road._prepare = affine
        list(road.flow([[road.item(image)]] * 2))
    assert all(len(slot.plans) <= PLANS for slot in road._slots)


@pytest.mark.skipif(not missing_gpu(), reason="there is a GPU")
def test_without_a_gpu_the_device_says_so():
    pytest.importorskip("cupy")
    with pytest.raises(EnvironmentProblem, match="no CUDA GPU for 'cuda:0'") as caught:
        Cuda("cuda:0")
    assert "--device cpu" in caught.value.hint


def test_without_cupy_the_device_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(EnvironmentProblem, match="cupy") as caught:
        Cuda("cuda")
    assert "convkit[cuda]" in caught.value.hint
