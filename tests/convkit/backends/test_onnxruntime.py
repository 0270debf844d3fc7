"""ONNX Runtime as a backend."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.graphs import make_model, node, run_model

from convkit import Backend, Session, hookimpl
from convkit.backends import open_session
from convkit.backends.onnxruntime import OnnxRuntime, _OnnxRuntimeOnDevice, _open, session_options
from convkit.errors import EnvironmentProblem, SettingError
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


def test_idle_threads_sleep_and_sums_of_int8_products_do_not_overflow():
    options = session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


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


@pytest.mark.parametrize(
    ("asked", "may", "threads"),
    [
        ("", 8, 0),
        ("1", 8, 1),
        ("3", 8, 3),
        ("8", 8, 0),
        ("99", 8, 0),
        ("0", 8, 0),
        ("2,1", 8, 2),
        ("", 4, 4),
        ("6", 4, 4),
    ],
)
def test_it_takes_as_many_threads_as_cores_may_be_used(monkeypatch, asked, may, threads):
    """Of 8 cores; 0 threads leave it to ONNX Runtime, which takes them all."""
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(may)), raising=False)
    assert session_options().intra_op_num_threads == threads


def test_it_describes_itself():
    import onnxruntime

    backend = OnnxRuntime()
    assert backend.problem() == ""
    assert backend.describe()["version"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in backend.describe()["execution providers"]
    assert backend.targets() == ()


def test_an_unknown_backend_is_an_error_with_a_suggestion(model):
    with pytest.raises(SettingError, match="no backend 'onnxrt'") as caught:
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


class Memory(np.ndarray):
    """A NumPy array with what a cupy array has."""

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, values: np.ndarray) -> None:
        self[...] = values

    def get(self) -> np.ndarray:
        return np.array(self)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The host's memory in place of the GPU's; returns the streams that are waited for."""
    cupy, waits = ModuleType("cupy"), list[int]()
    cupy.empty = lambda shape, dtype: np.full(shape, -7, dtype).view(Memory)  # type: ignore[attr-defined]
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(streamSynchronize=waits.append))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return waits


def test_the_side_on_the_device_reads_and_writes_the_callers_memory(tmp_path, memory):
    """The binding by address is the same for the CPU, so only the provider is another than on a GPU."""
    nodes = [node("Relu", ["x"], ["y"]), node("ReduceMax", ["x", "axes"], ["z"], keepdims=0)]
    constants = {"axes": np.array([1])}
    model = make_model(nodes, {"x": ["n", 3]}, {"y": ["n", 3], "z": ["n"]}, constants)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    side = _OnnxRuntimeOnDevice(_open(tmp_path / "model.onnx", "cpu"), "cpu", 12345)
    kept: dict[int, Any] = {}
    for turn, rows in enumerate((2, 5, 2, 5)):
        x = np.random.default_rng(turn).standard_normal((rows, 3)).astype(np.float32)
        buffer = side.buffer("x", (rows, 3))
        side.fill(buffer, x.astype(np.float64))
        outputs = side.run({"x": buffer})
        assert memory == [12345] * (turn + 1), "what fills the inputs must be done"
        assert outputs["y"] is kept.setdefault(rows, outputs["y"]), "the arrays of a shape are made once"
        expected = run_model(model, x=x)
        for name, value in side.fetch(outputs).items():
            np.testing.assert_array_equal(value, expected[name])
    assert side.capture(lambda: None) is None


def test_a_session_on_the_cpu_has_no_side_on_the_device(model):
    assert open_session("onnxruntime", model).on_device(0) is None


def test_a_session_on_a_gpu_has_one(model, monkeypatch):
    given: dict[str, Any] = {}

    def session(path: str, options: object, providers: list[Any]) -> object:
        given["provider"] = providers[0]
        return SimpleNamespace(get_inputs=list, get_outputs=list)

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", session)
    assert isinstance(open_session("onnxruntime", model, device="cuda:1").on_device(0), _OnnxRuntimeOnDevice)
    assert given["provider"] == ("CUDAExecutionProvider", {"device_id": 1})
