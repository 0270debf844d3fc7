"""ONNX Runtime as a backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.graphs import make_model, node

from convkit import Backend, Session, hookimpl
from convkit.backends import open_session
from convkit.backends.onnxruntime import OnnxRuntime
from convkit.errors import EnvironmentProblem
from convkit.plugins import manager


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a model with two outputs: y = relu(x), z = -x."""
    nodes = [node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["z"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(make_model(nodes, {"x": ["n", 3]}, {"y": ["n", 3], "z": ["n", 3]}).SerializeToString())
    return path


def test_a_session_returns_every_output_by_name_for_any_batch(model):
    session = open_session("onnxruntime", model)
    for batch in (1, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 3)).astype(np.float32)
        outputs = session.run({"x": x})
        assert list(outputs) == ["y", "z"]
        np.testing.assert_array_equal(outputs["y"], np.maximum(x, 0))
        np.testing.assert_array_equal(outputs["z"], -x)
    assert session.device == "cpu"
    session.close()


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09"])
def test_a_file_that_is_no_model_is_an_error_in_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(EnvironmentProblem, match=r"cannot load model\.onnx") as caught:
        open_session("onnxruntime", path)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("device", ["cuda:0", "cuda", "tpu", "gpu:1"])
def test_a_device_that_this_build_lacks_is_refused_with_what_it_offers(model, device):
    with pytest.raises(EnvironmentProblem, match="CPUExecutionProvider") as caught:
        open_session("onnxruntime", model, device=device)
    assert device in caught.value.message
    assert caught.value.exit_code == 5


def test_the_device_index_of_cuda_reaches_the_provider():
    from convkit.backends.onnxruntime import _provider

    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert _provider("cuda:3", available) == ("CUDAExecutionProvider", {"device_id": 3})
    assert _provider("cuda", available) == ("CUDAExecutionProvider", {"device_id": 0})
    assert _provider("cpu", available) == "CPUExecutionProvider"


def test_it_describes_itself():
    import onnxruntime

    backend = OnnxRuntime()
    assert backend.problem() == ""
    assert backend.describe()["version"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in backend.describe()["execution providers"]
    assert backend.files == ("model.onnx",)


def test_an_unknown_backend_is_an_error_with_a_suggestion(model):
    with pytest.raises(EnvironmentProblem, match="no backend 'onnxrt'") as caught:
        open_session("onnxrt", model)
    assert "Did you mean 'onnxruntime'" in caught.value.hint


class Unfit(Backend):
    """A backend whose library is missing."""

    name = "unfit"
    summary = "never runs"

    def problem(self, device: str = "cpu") -> str:
        return "its library is missing."

    def open(self, model: Path, *, device: str = "cpu") -> Session:
        raise AssertionError("a backend with a problem must not be opened")


class UnfitPlugin:
    @hookimpl
    def convkit_backends(self) -> list[Backend]:
        return [Unfit()]


def test_a_backend_that_cannot_run_here_is_refused_with_its_reason(model):
    manager().register(UnfitPlugin(), "unfit")
    try:
        with pytest.raises(EnvironmentProblem, match="'unfit' cannot run here: its library is missing"):
            open_session("unfit", model)
        assert Unfit().describe() == {}
    finally:
        manager().unregister("unfit")
