"""Every form of a CenterNet in the torch backend: proved, box for box what ONNX Runtime finds, and on the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from support.centernet import TorchOnDevice, TorchSession
from support.device_pipeline import HostAffine, HostDecode, NumpyDevice, WatchOnHost

from convkit import Artifact, Detections, load, validate
from convkit.processing import synthetic_scenes
from convkit.runtime import DevicePredictor, Predictor
from convkit_models.centernet._preprocess import Affine
from convkit_models.centernet.tasks.ctdet import CtdetDecode

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["heads", "tensorrt-pro", "detections"])
def artifact(request: pytest.FixtureRequest, narrow_forms: Callable[[str], Artifact]) -> Artifact:
    """A small network whose batch, height and width vary, so that shapes within the graph depend on the input."""
    return narrow_forms(request.param)


def test_it_is_proved_and_finds_the_same_boxes(artifact):
    verdict = validate(artifact.path, backend="torch")
    assert verdict.passed, verdict.headline
    images = synthetic_scenes(3, seed=5)
    with load(artifact.path) as known, load(artifact.path, backend="torch") as found:
        for ours, theirs in zip(found(images), known(images), strict=True):
            np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
            clear = np.abs(np.diff(theirs.scores, prepend=2, append=-1))
            kept = (clear[:-1] > 1e-4) & (clear[1:] > 1e-4)  # near ties may change places
            np.testing.assert_array_equal(ours.class_ids[kept], theirs.class_ids[kept])
            np.testing.assert_allclose(ours.boxes[kept], theirs.boxes[kept], atol=0.05)
            assert kept.any()


class Engine(TorchOnDevice):
    """The device side of a torch session, with a CPU in place of the GPU; a replay is another run."""

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        return body


@pytest.mark.parametrize("precision", [None, "float16"])
def test_the_predictor_of_the_gpu_gives_the_same_bits_with_a_cpu_in_its_place(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, precision: str | None
) -> None:
    """Buffers, layouts (channels-last in 16 bits), kernels and order are those of the GPU; only it is missing."""
    monkeypatch.setattr("torch.cuda.ExternalStream", lambda stream, device: None)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: nullcontext())
    monkeypatch.setattr("convkit.runtime._device_predictor.Cuda", lambda device: NumpyDevice())
    monkeypatch.setattr("convkit.runtime._device_pipeline.FiniteOnDevice", WatchOnHost)
    monkeypatch.setattr(TorchSession, "on_device", lambda session, stream: Engine(session, stream))
    monkeypatch.setattr(Affine, "on_device", lambda affine: HostAffine(affine))
    monkeypatch.setattr(CtdetDecode, "on_device", lambda decode: HostDecode(decode.spec))

    def session() -> TorchSession:
        return TorchSession(artifact.model, "cpu", precision, channels_last=precision is not None)

    images = [
        synthetic_scenes(1, seed=n, height=h, width=w)[0] for n, (h, w) in enumerate([(90, 120), (64, 64), (200, 31)])
    ]
    host, gpu = Predictor(artifact, session()), DevicePredictor(artifact, session())
    assert gpu.pipeline is not None
    pipeline: Any = gpu.pipeline
    assert pipeline._preprocess is not None
    assert pipeline._decode is not None
    for _ in range(4):
        for image in images:
            ours, theirs = gpu(image), host(image)
            assert isinstance(ours, Detections)
            assert len(ours) == len(theirs) > 0
            np.testing.assert_array_equal(ours.boxes, theirs.boxes)
            np.testing.assert_array_equal(ours.scores, theirs.scores)
            np.testing.assert_array_equal(ours.class_ids, theirs.class_ids)
    assert all(plan.replay for slots in pipeline._free for slot in slots for plan in slot.plans.values())
    gpu.close()
