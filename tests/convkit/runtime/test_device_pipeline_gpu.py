"""The device pipeline on a GPU against the host: the same boxes, whatever the batch, the sizes and the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convkit import Artifact, Detections, convert, load, validate
from convkit.backends import Engine
from convkit.errors import EnvironmentProblem, ImageError
from convkit.processing import read_image, synthetic_scenes
from convkit.runtime import DevicePredictor

pytestmark = pytest.mark.gpu

WEIGHTS = Path("examples/digits/digits_resdcn18.pth")
SIZES = [(480, 640), (64, 64), (720, 1280), (513, 211), (2, 3), (1080, 1920)]


@pytest.fixture(scope="module", params=["heads", "tensorrt-pro", "detections"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The digits detector in one of its forms, proved on the torch backend."""
    target = tmp_path_factory.mktemp("pipeline") / request.param
    return convert("centernet", weights=WEIGHTS, output=target, form=request.param, backend="torch", samples=2).artifact


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    digits = [read_image(path) for path in sorted(Path("examples/digits/images").iterdir())[:2]]
    return [*digits, *(synthetic_scenes(1, seed=n, height=h, width=w)[0] for n, (h, w) in enumerate(SIZES))]


@pytest.fixture(scope="module")
def expected(artifact: Artifact, images: list[np.ndarray]) -> list[Detections]:
    """The results of the host."""
    with load(artifact.path, backend="torch") as host:
        return host(images)


@pytest.fixture
def gpu(artifact: Artifact) -> Iterator[DevicePredictor]:
    with load(artifact.path, backend="torch", device="cuda", unproved=True) as predictor:
        assert isinstance(predictor, DevicePredictor)
        assert predictor.pipeline is not None
        yield predictor


def assert_matched(
    found: Sequence[Detections], expected: Sequence[Detections], *, score: float, pixels: float, least: float
) -> None:
    """Every box above ``least`` has a partner of its class with corners and score within the limits."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in ((ours, theirs), (theirs, ours)):
            for box, value, label in zip(a.boxes, a.scores, a.class_ids, strict=True):
                if value < least:
                    continue
                near = np.abs(b.boxes - box).max(axis=1) if len(b) else np.empty(0)
                good = (near <= pixels) & (b.class_ids == label) & (np.abs(b.scores - value) <= score)
                assert good.any(), (box, value, label, near.min(initial=np.inf))


def same_bits(a: Sequence[Detections], b: Sequence[Detections]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(getattr(x, name), getattr(y, name))
        for x, y in zip(a, b, strict=True)
        for name in ("boxes", "scores", "class_ids")
    )


def test_boxes_are_those_of_the_host(gpu, images, expected):
    assert_matched(gpu(images), expected, score=1e-3, pixels=0.1, least=0.05)


def test_single_images_of_many_sizes_replay_one_graph_and_give_the_same_bits(gpu, images):
    first = [gpu(image) for image in images]
    for _ in range(3):
        assert same_bits([gpu(image) for image in images], first)
    plans = [plan for slots in gpu.pipeline._free for slot in slots for plan in slot.plans.values()]
    assert plans
    assert all(plan.replay is not None for plan in plans)


def test_images_on_the_gpu_stay_there_and_give_the_same_bits(gpu, images):
    """Of torch and cupy, dense or a part of a larger image, alone and among images of the host."""
    import cupy
    import torch

    host = [gpu(image) for image in images]
    frames = [np.pad(image, ((3, 2), (5, 4), (0, 0)), constant_values=9) for image in images]
    parts = [torch.from_numpy(frame).cuda()[3:-2, 5:-4] for frame in frames]
    dense = [torch.from_numpy(image).cuda() for image in images]
    arrays = [cupy.asarray(image) for image in images]
    assert gpu.pipeline.item_on_device(parts[0]).borrowed.view.address == parts[0].data_ptr()
    for given in (parts, dense, arrays):
        for _ in range(4):
            assert same_bits([gpu(image) for image in given], host)
    mixed = [[a, b, c][index % 3] for index, (a, b, c) in enumerate(zip(images, parts, arrays, strict=True))]
    assert_matched(list(gpu.stream(mixed * 3, batch=4)), host * 3, score=1e-3, pixels=0.1, least=0.05)
    heads, same = gpu.outputs(dense[0]), gpu.outputs(images[0])
    assert all(np.array_equal(heads[name], same[name]) for name in heads)


def test_what_is_still_being_made_on_the_gpu_is_waited_for(gpu, images):
    import torch

    expected = gpu(images[0])
    stream = torch.cuda.Stream()
    for _ in range(4):
        with torch.cuda.stream(stream):
            busy = torch.randn(4096, 4096, device="cuda")
            for _ in range(20):
                busy = busy @ busy
            image = torch.zeros(images[0].shape, dtype=torch.uint8, device="cuda")
            image.copy_(torch.from_numpy(images[0]).pin_memory(), non_blocking=True)
            assert same_bits([gpu(image)], [expected])


def test_tensors_that_are_no_images_are_refused(gpu, images):
    import torch

    image = torch.from_numpy(images[0]).cuda()
    for wrong, text in (
        (image.permute(2, 0, 1).contiguous().permute(1, 2, 0), "not one behind the other"),
        (image.permute(2, 0, 1).contiguous(), "shape"),
        (image.float(), "float32"),
        (image[:, :, :1], "shape"),
    ):
        with pytest.raises(ImageError, match=text):
            gpu(wrong)


def test_any_batch_gives_the_boxes_of_single_images(gpu, images):
    single = [gpu(image) for image in images]
    for batch in (2, 3, 8):
        for _ in range(3):
            assert_matched(list(gpu.stream(images, batch=batch)), single, score=1e-3, pixels=0.1, least=0.05)


def test_a_stream_of_changing_images_never_mixes_them_up(gpu, images):
    """Two batches are in flight at a time; packing the next one must not touch the one that runs."""
    order = np.random.default_rng(0).integers(0, len(images), 60)
    single = [gpu(image) for image in images]
    found = list(gpu.stream((images[index] for index in order), batch=4))
    assert_matched(found, [single[index] for index in order], score=1e-3, pixels=0.1, least=0.05)


def test_the_callers_streams_do_not_matter(gpu, images):
    import torch

    before = [gpu(image) for image in images]
    with torch.cuda.stream(torch.cuda.Stream()):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy
        assert same_bits([gpu(image) for image in images], before)


WHOLE = {
    "precision": "int8", "calibrate": Path("examples/digits/heldout/images"), "calibration": "minmax",
    "inputs": Path("examples/digits/images"), "shape": ["height=256", "width=256"],
}  # fmt: skip
"""Of images as the network was trained with; of others int8 loses too much for the proof."""
TYPED: dict[str, dict[str, Any]] = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "int8": WHOLE,
    "fp16 from float16 to float16": {"precision": "fp16", "io_precision": "fp16"},
    "bf16 from bfloat16 to bfloat16": {"precision": "bf16", "io_precision": "bf16"},
    "int8 from float16 to float16": {**WHOLE, "io_precision": "fp16"},
}


@pytest.mark.parametrize("case", TYPED)
def test_a_typed_artifact_is_proved_on_the_gpu_from_inputs_to_results(tmp_path, images, case):
    """By the rule of its precision; it runs channels-last, enters in 16 bits, and repeats its results."""
    settings = TYPED[case]
    made = convert("centernet", weights=WEIGHTS, output=tmp_path / "typed", samples=2, **settings).artifact
    verdict = validate(made.path, backend="torch", device="cuda")
    assert verdict.passed, [check for check in verdict.checks if not check.passed]
    from convkit.backends.torch import Torch

    session: Any = Torch().open(Engine("torch", made.model), device="cuda")
    program = session.program
    assert program.channels_last
    assert str(program.entry("images")).endswith("bfloat16" if case.startswith("bf16") else ".float16")
    with load(made.path, backend="torch", device="cuda") as gpu:
        found = gpu(images)
        for _ in range(4):
            assert same_bits(gpu(images), found)


@pytest.mark.parametrize("end", ["preprocess", "decode"])
def test_an_end_without_a_device_side_runs_on_the_host(artifact, images, expected, monkeypatch, end):
    from support.centernet import Affine

    from convkit_models.centernet.tasks.ctdet import CtdetDecode

    monkeypatch.setattr({"preprocess": Affine, "decode": CtdetDecode}[end], "on_device", lambda _: None)
    with load(artifact.path, backend="torch", device="cuda", unproved=True) as gpu:
        for _ in range(4):
            assert_matched(list(gpu.stream(images, batch=3)), expected, score=1e-3, pixels=0.1, least=0.05)


def test_the_proof_passes_on_the_gpu(artifact):
    verdict = validate(artifact.path, backend="torch", device="cuda")
    assert verdict.passed
    assert any(check.kind == "pipeline" and check.case.endswith("round 4") for check in verdict.checks)
    load(artifact.path, backend="torch", device="cuda").close()


def test_onnx_runtime_runs_in_the_same_pipeline(artifact, images, expected):
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA provider")
    with load(artifact.path, backend="onnxruntime", device="cuda", unproved=True) as gpu:
        for _ in range(3):
            assert_matched(list(gpu.stream(images, batch=4)), expected, score=1e-2, pixels=1.0, least=0.3)


def test_out_of_memory_in_a_capture_is_no_reason_for_plain_launches(gpu, images, monkeypatch):
    import torch

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")

    for _ in range(4):
        gpu(images[0])
    pipeline = gpu.pipeline
    small = [pipeline.item(image) for image in images[:3]]
    for _ in range(2):
        list(pipeline.flow([small]))
    decode = pipeline._decode.launch
    monkeypatch.setattr(pipeline._decode, "launch", exhausted)
    with pytest.raises(EnvironmentProblem, match="not enough memory for a batch of 3"):
        list(pipeline.flow([small]))
    monkeypatch.setattr(pipeline._decode, "launch", decode)
    assert len(list(pipeline.flow([small] * 4))) == 12


def test_work_that_waits_for_the_gpu_runs_in_plain_launches(gpu, images, monkeypatch):
    import torch

    pipeline, launch = gpu.pipeline, gpu.pipeline._decode.launch

    def waits(outputs: object, *rest: object) -> None:
        launch(outputs, *rest)
        torch.cuda.current_stream().synchronize()  # not permitted while the stream is captured

    before = [gpu(image) for image in images[:2]]
    pipeline._runs.clear()
    for slot in (slot for slots in pipeline._free for slot in slots):
        slot.plans.clear()
    monkeypatch.setattr(pipeline._decode, "launch", waits)
    for _ in range(4):
        assert same_bits([gpu(image) for image in images[:2]], before)
    assert pipeline._uncaptured
