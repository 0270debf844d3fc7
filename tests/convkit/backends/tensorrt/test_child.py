"""Parsing and building in a child process: what it reports, and what is left when it does not come that far."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from support.disks import small_disk
from support.graphs import make_model, node
from support.plans import same_plan

from convkit.backends.tensorrt import Build, Task, find_flavour, run_tasks
from convkit.backends.tensorrt._bindings import load_bindings
from convkit.backends.tensorrt._child import LOG_LINES, LOG_WINDOW, _log_tail
from convkit.errors import EnvironmentProblem

pytest.importorskip("tensorrt_rtx_bindings")
RTX = find_flavour("tensorrt-rtx")
TARGETS = ("sm86", "sm89")


@pytest.fixture
def private_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for everything temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def convolution(folder: Path, name: str = "conv", channels: int = 4, layers: int = 1) -> Path:
    """Write a few convolutions with a batch of any size."""
    rng = np.random.default_rng(0)
    kernels = {f"k{index}": rng.standard_normal((channels, channels, 3, 3), np.float32) for index in range(layers)}
    nodes = [
        node("Conv", [f"t{index}" if index else "x", f"k{index}"], [f"t{index + 1}" if index + 1 < layers else "y"],
             name=f"conv{index}", pads=[1, 1, 1, 1])
        for index in range(layers)
    ]  # fmt: skip
    shape = ("batch", channels, 16, 16)
    path = folder / f"{name}.onnx"
    onnx.save(make_model(nodes, {"x": shape}, {"y": shape}, kernels), path)
    return path


def build_for(*targets: str, channels: int = 4) -> Build:
    shapes = tuple((size, channels, 16, 16) for size in (1, 2, 4))
    return Build(targets or TARGETS, {"x": (shapes[0], shapes[1], shapes[2])})


def one(path: Path, **settings: object):
    (outcome,) = run_tasks(RTX, [Task(path, **settings)])
    return outcome


class TestWhatComesBack:
    def test_a_network_and_an_engine(self, tmp_path, private_temp):
        steps: list[tuple[str, int, int]] = []

        def progress(step: str, done: int = 0, total: int = 0) -> None:
            steps.append((step, done, total))

        path = convolution(tmp_path)
        (outcome,) = run_tasks(RTX, [Task(path, read=True, build=build_for())], progress=progress)
        assert outcome.accepted
        (layer,) = outcome.network.layers
        assert (layer.type, layer.node) == ("CONVOLUTION", "conv0")
        assert layer.attributes["pre_padding"] == [1, 1]
        kernel = onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0])
        np.testing.assert_array_equal(layer.weights["kernel"].data.view(np.float32), kernel.reshape(-1))
        assert outcome.plan[:4] == b"ftrt" or outcome.plan[:4] == b"vtrt"
        assert outcome.targets == {"sm86": "", "sm89": ""}
        assert outcome.network.audit() == {"FLOAT": 1}
        building = [(done, total) for step, done, total in steps if step == "build for sm86, sm89"]
        assert building
        assert building[-1][0] == building[-1][1] > 0
        assert list(private_temp.iterdir()) == []

    def test_the_same_plan_twice(self, tmp_path):
        path = convolution(tmp_path)
        assert same_plan(*(one(path, build=build_for()).plan for _ in range(2)))

    def test_two_builds_at_once(self, tmp_path, private_temp):
        path = convolution(tmp_path)
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(lambda _: one(path, build=build_for()), range(2)))
        assert outcomes[0].plan is not None
        assert same_plan(outcomes[0].plan, outcomes[1].plan)
        assert list(private_temp.iterdir()) == []

    def test_weights_of_types_that_numpy_lacks(self, tmp_path):
        tensor = helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [3], [1.0, -2.5, 0.0078125])
        graph = helper.make_graph(
            [node("Add", ["x", "w"], ["y"])], "g",
            [helper.make_tensor_value_info("x", onnx.TensorProto.BFLOAT16, [3])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, [3])], [tensor],
        )  # fmt: skip
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "b")
        network = one(tmp_path / "b", read=True).network
        (weights,) = (layer.weights["weights"] for layer in network.layers if layer.type == "CONSTANT")
        assert weights.dtype == "BF16"
        high = (weights.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        assert high.tolist() == [1.0, -2.5, 0.0078125]


class TestWhatIsRefused:
    def test_every_node_that_the_parser_lacks(self, tmp_path):
        nodes = [node("Det", ["x"], ["d"], name="first"), node("Relu", ["x"], ["y"]),
                 node("Unique", ["x"], ["u"], name="second")]  # fmt: skip
        outputs = {"d": (), "y": (3, 3)}
        path = tmp_path / "model.onnx"
        onnx.save(make_model(nodes, {"x": (3, 3)}, outputs), path)
        outcome = one(path, read=True)
        assert not outcome.accepted
        assert outcome.network is None
        assert {(error.node, error.operator, error.name) for error in outcome.errors} >= {
            (0, "Det", "first"),
            (2, "Unique", "second"),
        }

    def test_nodes_behind_the_first_one(self, tmp_path):
        nodes = [node("Det", ["x"], ["d"], name="first"), node("Exp", ["d"], ["e"]),
                 node("Mul", ["x", "e"], ["m"]), node("Det", ["m"], ["y"], name="second")]  # fmt: skip
        path = tmp_path / "model.onnx"
        onnx.save(make_model(nodes, {"x": (3, 3)}, {"y": ()}), path)
        assert [(error.node, error.name) for error in one(path).errors] == [(0, "first"), (3, "second")]

    @pytest.mark.parametrize(
        "data", [b"", b"\x00" * 40, b"no model", b"\x08\x07", np.random.default_rng(3).bytes(300)],
        ids=["empty", "zeros", "text", "no graph", "random"],
    )  # fmt: skip
    def test_what_is_no_model(self, tmp_path, data):
        path = tmp_path / "model.onnx"
        path.write_bytes(data)
        outcome = one(path, read=True, build=build_for())
        assert outcome.errors
        assert outcome.errors[0].message
        assert (outcome.network, outcome.plan) == (None, None)

    def test_a_model_that_is_cut_off(self, tmp_path):
        path = convolution(tmp_path)
        path.write_bytes(path.read_bytes()[:-200])
        assert one(path, read=True).errors

    def test_missing_external_data(self, tmp_path):
        path = convolution(tmp_path, channels=16)
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=0)
        assert one(path).accepted
        (tmp_path / "weights.data").unlink()
        outcome = one(path)
        assert not outcome.accepted
        assert "weights.data" in outcome.errors[0].message

    def test_a_target_that_lacks_a_type_is_named(self, tmp_path):
        path = tmp_path / "matmul.onnx"
        weights = {"w": np.ones((4, 4), np.float32)}
        onnx.save(make_model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 4)}, {"y": (2, 4)}, weights), path)
        outcome = one(path, build=Build(("sm75", "sm86")))
        assert outcome.plan is None
        assert outcome.targets["sm86"] == ""
        assert "FP32 GEMM" in outcome.targets["sm75"]

    def test_one_bad_file_does_not_spoil_the_others(self, tmp_path):
        good = convolution(tmp_path)
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"nothing")
        outcomes = run_tasks(RTX, [Task(bad), Task(good), Task(bad), Task(good)])
        assert [outcome.accepted for outcome in outcomes] == [False, True, False, True]


class TestInstallations:
    def test_nothing_installed(self):
        nothing = dataclasses.replace(RTX, module="no_such_bindings")
        with pytest.raises(EnvironmentProblem, match="not installed") as caught:
            run_tasks(nothing, [Task(Path("x.onnx"))])
        assert "convkit[tensorrt-rtx]" in caught.value.hint

    def test_bindings_without_libraries(self):
        half = dataclasses.replace(RTX, libraries="no_such_libraries")
        with pytest.raises(EnvironmentProblem, match="without its libraries") as caught:
            run_tasks(half, [Task(Path("x.onnx"))])
        assert "pip install" in caught.value.hint

    def test_libraries_that_do_not_load(self, tmp_path):
        broken = dataclasses.replace(RTX, files=("libnone.so.1", "libneither.so.1"))
        with pytest.raises(EnvironmentProblem, match="do not load"):
            load_bindings(broken, tmp_path)

    def test_bindings_and_libraries_of_two_versions(self, tmp_path):
        mixed = dataclasses.replace(RTX, distributions=("numpy", "onnx"))
        with pytest.raises(EnvironmentProblem, match="different versions"):
            load_bindings(mixed, tmp_path)


def children() -> list[int]:
    """Return the processes that this one started and that still run."""
    task = Path(f"/proc/{os.getpid()}/task")
    return [int(pid) for thread in task.iterdir() for pid in (thread / "children").read_text().split()]


class TestTheEndOfTheChild:
    def test_killed_while_it_builds(self, tmp_path, private_temp):
        path = convolution(tmp_path)
        struck: list[int] = []

        def strike(step: str, done: int = 0, total: int = 0) -> None:
            del done, total
            if step.startswith("build") and not struck:
                struck.extend(children())
                for pid in struck:
                    os.kill(pid, signal.SIGKILL)

        tasks = [Task(path), Task(path, build=build_for()), Task(path)]
        outcomes = run_tasks(RTX, tasks, progress=strike)
        assert struck
        assert "ended by SIGKILL" in str(outcomes[1].problem)
        assert "memory runs out" in outcomes[1].problem.hint
        assert outcomes[1].plan is None
        assert [outcome.accepted for outcome in outcomes] == [True, False, True]
        assert list(private_temp.iterdir()) == []

    def test_an_exception_in_the_caller(self, tmp_path, private_temp):
        def fail(step: str, done: int = 0, total: int = 0) -> None:
            raise RuntimeError(f"{step} {done} {total}")

        with pytest.raises(RuntimeError, match="parse"):
            run_tasks(RTX, [Task(convolution(tmp_path), build=build_for())], progress=fail)
        assert children() == []
        assert list(private_temp.iterdir()) == []


CALLER = """
import sys
from pathlib import Path
from convkit.backends.tensorrt import Build, Task, find_flavour, run_tasks

def progress(step, done=0, total=0):
    print(step, flush=True)

shapes = tuple((size, 64, 16, 16) for size in (1, 2, 4))
build = Build(("sm86", "sm89", "sm120"), {"x": shapes})
run_tasks(find_flavour("tensorrt-rtx"), [Task(Path(sys.argv[1]), build=build)] * 20, progress=progress)
"""


@pytest.mark.timing
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["parse", "build"])
def test_the_end_of_the_caller(tmp_path, private_temp, number, moment):
    path = convolution(tmp_path, channels=64, layers=12)
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )  # fmt: skip
    for line in caller.stdout:
        if line.startswith(moment):
            break
    assert list(private_temp.iterdir())
    struck = time.monotonic()
    caller.send_signal(number)
    assert caller.wait(timeout=10) != 0
    caller.stdout.close()
    ended = time.monotonic() - struck
    while list(private_temp.iterdir()) and time.monotonic() - struck < 10:
        time.sleep(0.02)
    assert list(private_temp.iterdir()) == []
    assert ended < 1.0
    assert time.monotonic() - struck < 2.0


def test_no_room_for_the_results(tmp_path, monkeypatch):
    path = convolution(tmp_path, channels=256, layers=2)
    with small_disk(tmp_path / "disk", 2000) as disk:
        monkeypatch.setattr("tempfile.tempdir", str(disk))
        outcome = one(path, read=True)
        assert isinstance(outcome.problem, EnvironmentProblem)
        assert re.search("No space left|File too large", outcome.problem.message)
        assert "TMPDIR" in outcome.problem.hint
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    ["", "one\ntwo", "short\n" * 10000, "é" * LOG_WINDOW + "\nlast\n", ("é" * LOG_WINDOW + "\n") * 30],
    ids=["empty", "few lines", "many lines", "a long line", "long lines"],
)
def test_of_a_log_the_last_lines_are_quoted(tmp_path: Path, text: str) -> None:
    assert _log_tail(tmp_path) == [], "there is no log"
    (tmp_path / "log.txt").write_text(text, encoding="utf-8")
    assert _log_tail(tmp_path) == text.splitlines()[-LOG_LINES:]
