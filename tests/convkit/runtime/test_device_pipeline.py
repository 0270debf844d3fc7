"""The device pipeline without a GPU: packing, buffers, padding and order, with a device and an engine made of NumPy.

Preprocess and decode are CenterNet's kernels built for the host, and those of a model without images.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.centernet import Affine
from support.device_pipeline import HostAffine, HostDecode, NumpyDevice, WatchOnHost
from support.gpu import missing_gpu

from convkit import Artifact, Detections
from convkit.backends import DeviceSession
from convkit.errors import AdapterError, ConversionError, EnvironmentProblem, ImageError, KernelError, NotFiniteError
from convkit.model import Dim, ModelSpec, TensorSpec
from convkit.processing import synthetic_scenes
from convkit.runtime import Cuda, DevicePipeline, FiniteCheck, _staging
from convkit.runtime._plans import PLANS
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
        self.spoil: Callable[[dict[str, np.ndarray]], None] = lambda outputs: None

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
        self.spoil(outputs)
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


SPEC = ModelSpec(
    variant="pool",
    dims=(Dim("batch", 1, 1, 8), Dim("height", 4, 64, 4096), Dim("width", 4, 64, 4096)),
    inputs=(TensorSpec("images", ("batch", 3, "height", "width")),),
    outputs=tuple(TensorSpec(name, ("batch", 2, "height/4", "width/4")) for name in ("hm", "wh", "reg")),
    preprocess={},
    decode={},
)


class HostSide(Affine):
    """CenterNet's preprocess with its kernel on the host as its device side, or without one."""

    device = True

    def on_device(self) -> HostAffine | None:  # type: ignore[override]
        return HostAffine(self) if self.device else None


class HostDecodeSide(CtdetDecode):
    """CenterNet's decode with its kernel on the host as its device side, or without one."""

    device = True

    def on_device(self) -> HostDecode | None:  # type: ignore[override]
        return HostDecode(DECODE) if self.device else None


def make_pipeline(
    *,
    capturable: bool = True,
    batch_min: int = 1,
    device_preprocess: bool = True,
    device_decode: bool = True,
    finite: FiniteCheck | None = None,
) -> DevicePipeline:
    preprocess, decode = HostSide(PREPROCESS), HostDecodeSide(DECODE)
    preprocess.device, decode.device = device_preprocess, device_decode
    return DevicePipeline(
        NumpyDevice(),
        Pool(capturable=capturable),
        SPEC,
        preprocess,
        decode,
        batch_min=batch_min,  # type: ignore[arg-type]
        finite=finite,
    )


class NothingInfinite(FiniteCheck):
    """A check of a model whose reference has no infinity."""

    def _allowed(self) -> frozenset[str]:
        return frozenset()


def watched(monkeypatch: pytest.MonkeyPatch, **how: Any) -> DevicePipeline:
    """Return a pipeline that refuses outputs that are no numbers."""
    monkeypatch.setattr("convkit.runtime._device_pipeline.FiniteOnDevice", WatchOnHost)
    return make_pipeline(finite=NothingInfinite(Artifact(Path(), {}), SPEC.outputs), **how)


def scenes() -> list[np.ndarray]:
    return [synthetic_scenes(1, seed=n, height=h, width=w)[0] for n, (h, w) in enumerate(SIZES)]


def on_host(image: np.ndarray) -> Detections:
    prepared = Affine(PREPROCESS)(image)
    found = CtdetDecode(DECODE)(heads(prepared.tensors["images"][None]), [prepared.meta])[0]
    assert isinstance(found, Detections)
    return found


def flow(pipeline: DevicePipeline, images: Sequence[np.ndarray], batch: int) -> list[Any]:
    items = [pipeline.item(image) for image in images]
    return list(pipeline.flow(items[start : start + batch] for start in range(0, len(items), batch)))


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
    pipeline = make_pipeline(device_preprocess=ends[0], device_decode=ends[1])
    for _ in range(2):
        assert_equal(flow(pipeline, images, batch), images)
    pipeline.close()


def test_a_batch_is_one_copy_there_and_one_back():
    pipeline: Any = make_pipeline()
    images = scenes()
    flow(pipeline, images, 3)
    assert len(pipeline.device.uploads) == pipeline.device.downloads == 2
    pixels = sum(-(-image.nbytes // 16) * 16 for image in images)
    sent = sum(size for size, _ in pipeline.device.uploads)
    assert pixels <= sent <= pixels + 2 * 512, "only pixels, records and matrices are copied"
    assert sorted(pipeline.device.waited) == [0, 1], "results are read once they are there"
    assert [concurrent for _, concurrent in pipeline.device.uploads] == [False, True], (
        "the second copy does not wait for the first batch"
    )


def test_the_third_run_of_a_shape_is_captured_and_later_ones_replay_it():
    pipeline: Any = make_pipeline()
    images = scenes()[:2]
    for _ in range(6):
        assert_equal(flow(pipeline, images, 2), images)
    assert pipeline.engine.captures == 1, "each stream takes over the memory of the one before"
    assert pipeline.engine.replays == 4
    assert_equal(flow(pipeline, images * 6, 2), images * 6)
    assert pipeline.engine.captures == 3, "one graph for each of the batches on their way"
    assert pipeline.engine.replays == 4 + 6


@pytest.fixture
def copied_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch counts as large: threads copy it while the next one is gathered."""
    monkeypatch.setattr(_staging, "_LARGE_BYTES", 1)
    monkeypatch.setattr(_staging, "_PART_BYTES", 1 << 10)


@pytest.mark.parametrize("ends", [(True, True), (True, False), (False, True)])
@pytest.mark.usefixtures("copied_aside")
def test_payloads_are_copied_while_the_next_batch_is_gathered(ends: tuple[bool, bool]) -> None:
    pipeline = make_pipeline(device_preprocess=ends[0], device_decode=ends[1])
    images = scenes() * 3
    assert_equal(flow(pipeline, images, 2), images)
    pipeline.close()


@pytest.mark.usefixtures("copied_aside")
def test_threads_have_the_next_batch_before_they_are_done_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they never wait for this thread; slow ones mix nothing up."""
    pipeline: Any = make_pipeline()
    said: list[str] = []
    give, upload, copy = pipeline.packer.copy, pipeline.device.upload, _staging._copy
    monkeypatch.setattr(_staging, "_copy", lambda *parts: (time.sleep(0.002), copy(*parts)))
    monkeypatch.setattr(pipeline.packer, "copy", lambda *batch: (said.append("given"), give(*batch))[1])
    monkeypatch.setattr(pipeline.device, "upload", lambda *to, **how: (said.append("sent"), upload(*to, **how))[1])
    images = scenes() * 2
    assert_equal(flow(pipeline, images, 2), images)
    assert said == ["given", *["given", "sent"] * 5, "sent"]
    pipeline.close()


@pytest.mark.usefixtures("copied_aside")
def test_a_stream_that_is_given_up_leaves_nothing_behind() -> None:
    pipeline: Any = make_pipeline()
    images = scenes()
    for count in range(len(images)):
        begun = pipeline.flow([pipeline.item(image)] for image in images)
        assert_equal([next(begun) for _ in range(count)], images[:count])
        begun.close()
    assert_equal(flow(pipeline, images, 1), images)
    assert len(pipeline._free) == 1


@pytest.mark.parametrize("large", [False, True])
def test_images_in_the_memory_of_the_gpu_are_read_where_they_are(large: bool, request: pytest.FixtureRequest) -> None:
    """Dense ones and parts of larger ones, alone and among others; only their records are copied."""
    if large:
        request.getfixturevalue("copied_aside")
    pipeline: Any = make_pipeline()
    images = scenes()
    frames = [np.pad(image, ((1, 2), (3, 1), (0, 0)), constant_values=7) for image in images]
    parts = [frame[1:-2, 3:-1] for frame in frames]
    assert_equal(list(pipeline.flow([pipeline.item_on_device(each)] for each in parts)), images)
    assert {size for size, _ in pipeline.device.uploads} == {pipeline._plans._payload_start(1)}
    assert pipeline.device.waits == len(images), "each batch waits for the stream in which its images were made"
    for batch in (2, 3):
        items = [pipeline.item_on_device(part) if turn % 2 else pipeline.item(part) for turn, part in enumerate(parts)]
        groups = [items[start : start + batch] for start in range(0, len(items), batch)]
        assert_equal(list(pipeline.flow(groups)), images)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda image: image.transpose(2, 0, 1), "shape"),
        (lambda image: image[:, ::2], "one behind the other"),
        (lambda image: image[:, :, ::-1], "one behind the other"),
        (lambda image: np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0), "one behind the other"),
        (lambda image: np.broadcast_to(image[:1], image.shape), "one behind the other"),
        (lambda image: image.astype(np.float32), "float32"),
    ],
)
def test_arrays_in_the_memory_of_the_gpu_that_are_no_dense_images_are_refused(wrong, text):
    with pytest.raises(ImageError, match=text):
        make_pipeline().item_on_device(wrong(scenes()[0]))


def test_payloads_are_where_the_inputs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A placement without a payload would be read where the one before it lies, one too many would shift the others."""
    image, place = scenes()[0], HostAffine.place
    pipeline = make_pipeline()
    monkeypatch.setattr(HostAffine, "place", lambda self, raw: replace(place(self, raw), payload=None))
    with pytest.raises(AdapterError, match=r"[Pp]lace\(\) of HostAffine returned a placement with no payload"):
        pipeline.item(image)
    monkeypatch.setattr(HostAffine, "place_on_device", lambda self, array: place(self, image))
    with pytest.raises(AdapterError, match=r"[Pp]lace_on_device\(\) of HostAffine returned a placement with a payload"):
        pipeline.item_on_device(image)


def test_a_preprocess_that_reads_no_inputs_on_the_gpu_gets_a_copy_of_them():
    pipeline = make_pipeline(device_preprocess=False)
    assert_equal(list(pipeline.flow([pipeline.item_on_device(each)] for each in scenes())), scenes())


@pytest.mark.parametrize("large", [False, True])
def test_streams_of_several_threads_take_turns(large: bool, request: pytest.FixtureRequest) -> None:
    if large:
        request.getfixturevalue("copied_aside")
    pipeline: Any = make_pipeline()
    images = scenes()
    turned = [images[start:] + images[:start] for start in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: flow(pipeline, each * 2, 2), turned))
    for results, given in zip(found, turned, strict=True):
        assert_equal(results, given * 2)
    begun = pipeline.flow([pipeline.item(image)] for image in images)
    first = next(begun)
    assert_equal(flow(pipeline, images, 1), images)  # while the other stream is under way
    assert_equal([first, *begun], images)


def test_an_engine_that_cannot_be_captured_is_asked_once_and_runs_on():
    pipeline: Any = make_pipeline(capturable=False)
    asked = []
    capture = pipeline.engine.capture
    pipeline.engine.capture = lambda body: asked.append(1) or capture(body)
    images = scenes()[:2]
    for _ in range(6):
        assert_equal(flow(pipeline, images, 2), images)
    assert len(asked) == 1


CAPTURING = "CUDA error: operation not permitted when stream is capturing"


def torch_like(first: Exception, second: str = "CUDA error: operation failed due to a previous error during capture"):
    """Return a capture that fails as torch's do: ending it after an error raises another one."""

    def capture(body: object) -> None:
        try:
            raise first
        except type(first):
            raise RuntimeError(second)  # noqa: B904 - torch does not chain them either

    return capture


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("error", [RuntimeError(CAPTURING), KernelError(CAPTURING)])
def test_work_that_cannot_be_captured_runs_in_plain_launches(error, outer):
    pipeline: Any = make_pipeline()
    asked = []

    def fail(body: object) -> None:
        asked.append(1)
        torch_like(error)(body)

    pipeline.engine.capture = fail
    try:
        if outer:
            raise RuntimeError("CUDA error: out of memory")
        check_runs(pipeline)
    except RuntimeError:
        check_runs(pipeline)
    assert len(asked) == 1


def check_runs(pipeline: DevicePipeline) -> None:
    for _ in range(4):
        assert_equal(flow(pipeline, scenes()[:1], 1), scenes()[:1])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB during graph capture"),
            "not enough memory for a",
        ),
        (MemoryError("out of memory"), "not enough memory for a batch of 1"),
        (
            RuntimeError("CUDA error: an illegal memory access was encountered"),
            "failed on a batch of 1: CUDA error: an",
        ),
    ],
)
def test_other_failures_of_a_capture_surface(error, text):
    pipeline: Any = make_pipeline()
    pipeline.engine.capture = torch_like(error)
    for _ in range(2):
        flow(pipeline, scenes()[:1], 1)
    with pytest.raises(EnvironmentProblem, match=text):
        flow(pipeline, scenes()[:1], 1)


@pytest.mark.parametrize("place", ["run", "fetch"])
def test_failures_of_plain_launches_are_errors_for_people(place, monkeypatch):
    pipeline: Any = make_pipeline(device_decode=False)

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation")

    monkeypatch.setattr(pipeline.engine, place, fail)
    with pytest.raises(
        EnvironmentProblem, match=r"batch of 1: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    ) as caught:
        flow(pipeline, scenes()[:1], 1)
    assert caught.value.hint == "Use a smaller batch."


def test_small_batches_are_filled_up_with_the_last_image():
    pipeline: Any = make_pipeline(batch_min=4)
    images = scenes()[:3]
    assert_equal(flow(pipeline, images, 3), images)
    assert pipeline.engine.batches == [4]
    assert pipeline.device.uploads[0][0] < sum(image.nbytes for image in images) + 1024, "the copies share its pixels"


def test_larger_images_make_the_buffers_grow_and_nothing_else_changes():
    pipeline = make_pipeline()
    small, large = scenes()[0], synthetic_scenes(1, seed=9, height=700, width=900)[0]
    images = [small, large, small, small, large]
    for _ in range(3):
        assert_equal(flow(pipeline, images, 1), images)


def test_a_stream_that_is_left_early_leaves_nothing_behind():
    pipeline: Any = make_pipeline()
    images = scenes()
    for start in range(3):
        stream = pipeline.flow([[pipeline.item(image)] for image in images[start:]])
        next(stream)
        abandoned = pipeline.device.events - 1
        assert abandoned not in pipeline.device.waited
        stream.close()
        assert_equal(flow(pipeline, images, 2), images)
        assert abandoned in pipeline.device.waited, "its buffers were written to while it was under way"


def test_buffers_are_kept_for_so_many_shapes_only():
    pipeline: Any = make_pipeline(device_preprocess=False)
    buffers: dict[tuple[int, ...], int] = {}
    buffer = pipeline.engine.buffer

    def counted(name: str, shape: tuple[int, ...]) -> np.ndarray:
        buffers[shape] = buffers.get(shape, 0) + 1
        return buffer(name, shape)

    pipeline.engine.buffer = counted
    image = scenes()[0]
    for _ in range(2):
        for n in range(1, PLANS + 2):
            pipeline._host_preprocess = Affine({**PREPROCESS, "height": 32, "width": 32 * n})
            list(pipeline.flow([[pipeline.item(image)]] * 2))
    assert set(buffers.values()) == {4}, "in each of two slots, the buffers of the least recently used shape were freed"


def test_outputs_without_decode():
    pipeline = make_pipeline(batch_min=4)
    images = scenes()[:3]
    prepared = np.stack([Affine(PREPROCESS)(image).tensors["images"] for image in images])
    outputs = pipeline.outputs([pipeline.item(image) for image in images])
    assert outputs.keys() == {"hm", "wh", "reg"}
    for name, value in heads(prepared).items():
        np.testing.assert_array_equal(outputs[name], value)


def test_a_model_without_decode_has_outputs_only():
    pipeline = DevicePipeline(NumpyDevice(), Pool(capturable=True), SPEC, HostSide(PREPROCESS), None, batch_min=1)
    items = [pipeline.item(image) for image in scenes()[:2]]
    assert len(pipeline.outputs(items)["hm"]) == 2
    with pytest.raises(ConversionError, match="has no decode"):
        list(pipeline.flow([items]))


@pytest.mark.parametrize("device", [True, False])
def test_a_decode_that_loses_results_is_refused(device, monkeypatch):
    pipeline: Any = make_pipeline(device_decode=device)
    if device:
        monkeypatch.setattr(pipeline._decode, "read", lambda results, metas: [])
    else:
        monkeypatch.setattr(pipeline, "_host_decode", lambda outputs, metas: [])
    with pytest.raises(AdapterError, match="returned 0 results for 1 inputs"):
        flow(pipeline, scenes()[:1], 1)


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


@pytest.mark.parametrize("device_decode", [True, False])
@pytest.mark.parametrize("capturable", [True, False])
def test_outputs_that_are_no_numbers_are_refused_and_not_decoded(monkeypatch, device_decode, capturable):
    """Without the check NaN in the heat map is no peak, so the image has no boxes and nobody knows why."""
    pipeline = watched(monkeypatch, device_decode=device_decode, capturable=capturable)
    images = scenes()
    for _ in range(4):
        assert_equal(flow(pipeline, images, 2), images)
    engine: Any = pipeline.engine

    def spoil(outputs: dict[str, np.ndarray]) -> None:
        outputs["wh"][-1, 1, 2, 3] = np.inf

    engine.spoil = spoil
    with pytest.raises(NotFiniteError, match="infinity in output 'wh'") as caught:
        flow(pipeline, images, 2)
    assert caught.value.row == 1
    engine.spoil = lambda outputs: None
    assert_equal(flow(pipeline, images, 2), images)


def test_a_row_of_padding_is_not_refused(monkeypatch):
    pipeline = watched(monkeypatch, batch_min=3)
    engine: Any = pipeline.engine
    engine.spoil = lambda outputs: outputs["hm"].__setitem__(2, np.nan)
    assert_equal(flow(pipeline, scenes()[:2], 2), scenes()[:2])


def test_the_check_adds_no_copy_and_no_wait(monkeypatch):
    plain, checked = make_pipeline(), watched(monkeypatch)
    for pipeline in (plain, checked):
        flow(pipeline, scenes(), 2)
    a: Any = plain.device
    b: Any = checked.device
    assert (a.uploads, a.downloads, a.events, a.waited) == (b.uploads, b.downloads, b.events, b.waited)
