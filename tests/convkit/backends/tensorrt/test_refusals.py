"""What is refused before an engine runs: plans, GPUs, and by NVIDIA's genuine runtime a machine without a driver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.gpu import missing_gpu
from support.tensorrt_double import FakeGpu

from convkit.backends import Engine, find_backend, open_session
from convkit.backends.tensorrt import FLAVOURS, Build, Task, run_tasks
from convkit.backends.tensorrt import _gpu as gpu_module
from convkit.backends.tensorrt._backend import TensorRT
from convkit.errors import EnvironmentProblem, IntegrityError, SettingError

pytest.importorskip("tensorrt_rtx_bindings")
RTX, FULL = FLAVOURS["tensorrt-rtx"], FLAVOURS["tensorrt"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A genuine plan for 8.6 and 12.0."""
    file = tmp_path_factory.mktemp("model") / "model.onnx"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), file)
    build = Build(("sm86", "sm120"), {"x": ((1, 4), (2, 4), (4, 4))})
    (outcome,) = run_tasks(RTX, [Task(file, build=build)])
    assert outcome.plan is not None
    return outcome.plan


class NoCuda:
    """A GPU that must not be asked for yet."""

    def __init__(self, device: str) -> None:
        raise AssertionError("CUDA was called")


def gpu(capability: str, name: str = "Pretend GPU") -> type:
    class Pretend(FakeGpu):
        compute_capability = capability

        def __init__(self, device: str) -> None:
            super().__init__()
            self.name = name

    return Pretend


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], type[Exception], str]] = {
    "empty": (lambda plan: b"", IntegrityError, "is empty"),
    "cut": (lambda plan: plan[:-1], IntegrityError, "damaged"),
    "cut in the header": (lambda plan: plan[:30], IntegrityError, "damaged"),
    "longer": (lambda plan: plan + b"\0", IntegrityError, "damaged"),
    "garbage": (lambda plan: bytes(range(256)) * 8, IntegrityError, "no engine of TensorRT-RTX"),
    "another version": (lambda plan: plan[:26] + b"\x06" + plan[27:], EnvironmentProblem, r"1\.7\.6\.|1\.\d+\.6\."),
    "full TensorRT": (lambda plan: b"ftrt" + plan[4:], EnvironmentProblem, "engine of TensorRT, not of TensorRT-RTX"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_plan_that_is_not_whole_is_refused_before_cuda_is_called(name, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_module, "Gpu", NoCuda)
    spoil, kind, message = DAMAGE[name]
    file = tmp_path / "model.plan"
    file.write_bytes(spoil(plan))
    with pytest.raises(kind, match=message) as caught:
        TensorRT(RTX).open(Engine(RTX.name, file, ("sm86",)))
    assert "convkit build" in caught.value.hint


def test_a_plan_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_module, "Gpu", NoCuda)
    with pytest.raises(IntegrityError, match="No such file"):
        TensorRT(RTX).open(Engine(RTX.name, tmp_path / "model.plan"))


def test_a_plan_of_rtx_is_not_full_tensorrts(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_module, "Gpu", NoCuda)
    monkeypatch.setattr(type(FULL), "require", lambda flavour: None)
    file = tmp_path / "model.plan"
    file.write_bytes(plan)
    with pytest.raises(EnvironmentProblem, match="engine of TensorRT-RTX, not of TensorRT") as caught:
        TensorRT(FULL).open(Engine(FULL.name, file))
    assert "--backend tensorrt-rtx" in caught.value.hint


@pytest.mark.parametrize("capability", ["9.0", "10.0", "7.0"])
def test_a_gpu_that_the_flavour_does_not_run_on_is_refused_with_those_that_it_does(
    plan, tmp_path, monkeypatch, capability
):
    monkeypatch.setattr(gpu_module, "Gpu", gpu(capability, "NVIDIA H100"))
    file = tmp_path / "model.plan"
    file.write_bytes(plan)
    with pytest.raises(EnvironmentProblem, match=f"NVIDIA H100 has compute capability {capability}") as caught:
        TensorRT(RTX).open(Engine(RTX.name, file, ("sm86",)))
    for known in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"):
        assert known in caught.value.hint
    assert "12.1" in TensorRT(RTX).problem("cuda")


def test_a_gpu_that_the_engine_was_not_built_for_is_refused(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_module, "Gpu", gpu("8.9"))
    file = tmp_path / "model.plan"
    file.write_bytes(plan)
    with pytest.raises(EnvironmentProblem, match="is for sm86, sm120; Pretend GPU is sm89") as caught:
        TensorRT(RTX).open(Engine(RTX.name, file, ("sm86", "sm120")))
    assert "convkit build ARTIFACT --to tensorrt-rtx --target sm89" in caught.value.hint


def test_the_machine_of_a_proof(monkeypatch):
    monkeypatch.setattr(gpu_module, "Gpu", gpu("12.0"))
    assert TensorRT(RTX).problem("cuda") == ""
    machine = TensorRT(RTX).machine("cuda")
    assert machine["compute_capability"] == "12.0"
    assert machine["version"] == RTX.versions()["tensorrt-rtx-cu13-bindings"]


def test_an_onnx_graph_is_not_its_engine(tmp_path):
    with pytest.raises(SettingError, match="runs the engines that it builds") as caught:
        open_session("tensorrt-rtx", tmp_path / "model.onnx", device="cuda")
    assert "--to tensorrt-rtx" in caught.value.hint


@pytest.mark.parametrize("device", ["cpu", "cuda:x", "tpu"])
def test_engines_run_on_gpus_alone(device):
    with pytest.raises(EnvironmentProblem, match="is not a GPU") as caught:
        find_backend("tensorrt-rtx", device)
    assert "--device cuda" in str(caught.value)


@pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")
def test_without_a_driver_the_error_says_so(plan, tmp_path):
    file = tmp_path / "model.plan"
    file.write_bytes(plan)
    with pytest.raises(EnvironmentProblem, match=r"no CUDA GPU|needs cupy"):
        TensorRT(RTX).open(Engine(RTX.name, file, ("sm86",)))


GENUINE = """
import json, pathlib, sys
from convkit.backends.tensorrt import FLAVOURS
from convkit.backends.tensorrt._runtime import RuntimeEngine
from convkit.errors import ConvkitError
said = {}
for file in sys.argv[1:]:
    try:
        RuntimeEngine(FLAVOURS["tensorrt-rtx"], pathlib.Path(file).read_bytes())
    except ConvkitError as error:
        said[pathlib.Path(file).name] = [error.message, error.hint, error.exit_code]
print(json.dumps(said))
"""


@pytest.mark.skipif(not missing_gpu(), reason="this machine has a GPU")
def test_the_genuine_runtime_refuses_and_its_log_is_in_the_error(plan, tmp_path):
    """In a child process: what the library does to a process, it does to that one."""
    contents = {"whole": plan, "cut": plan[:-1], "garbage": b"x" * 2000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in contents]
    done = subprocess.run(
        [sys.executable, "-c", GENUINE, *files], capture_output=True, text=True, timeout=120, check=False,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.keys() == contents.keys()
    for message, hint, code in said.values():
        assert message == "TensorRT-RTX does not load the engine."
        assert code == 5
        assert "Its last messages:" in hint
    assert "cudaError 35" in said["whole"][1]
    assert "header.size" in said["cut"][1]
    assert "magicTag" in said["garbage"][1]
