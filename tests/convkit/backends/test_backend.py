"""What a backend is: engines, what the defaults do, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import markdown
from support.plugins import registered

from convkit import Backend, Engine, Session, hookimpl
from convkit.backends import BuildRequest, find_backend, open_session
from convkit.errors import AdapterError, EnvironmentProblem, SettingError


class EchoSession(Session):
    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(inputs)


class Echo(Backend):
    """Returns what it is given; runs on the CPU only."""

    name: ClassVar[str] = "echo"
    summary: ClassVar[str] = "returns its inputs"
    opened: ClassVar[list[tuple[Engine, str]]] = []

    def problem(self, device: str = "cpu") -> str:
        return "" if device == "cpu" else f"there is no {device}."

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        self.opened.append((engine, device))
        return EchoSession()


class EchoPlugin:
    @hookimpl
    def convkit_backends(self) -> Iterable[Backend]:
        return [Echo()]


@pytest.fixture
def echo() -> Iterator[None]:
    with registered(EchoPlugin(), "echo"):
        yield


def test_by_default_there_is_nothing_to_build_and_the_graph_is_the_engine(tmp_path):
    graph = tmp_path / "model.onnx"
    assert Echo().targets() == ()
    assert not Echo().builds
    assert Echo().build(graph, tmp_path / "engines", BuildRequest()) == Engine("echo", graph)
    assert not (tmp_path / "engines").exists()
    assert Echo().describe() == {}


def test_a_backend_that_builds_nothing_refuses_targets(tmp_path):
    with pytest.raises(SettingError, match="'echo' builds no engines for sm_80, sm_90") as caught:
        Echo().build(tmp_path / "model.onnx", tmp_path, BuildRequest(("sm_80", "sm_90")))
    assert "--target" in caught.value.hint


def test_a_session_runs_on_the_cpu_and_has_no_device_side_by_default():
    with_defaults = EchoSession()
    assert with_defaults.device == "cpu"
    assert with_defaults.on_device(0) is None
    with_defaults.close()


@pytest.mark.parametrize("missing", ["problem", "open"])
def test_a_backend_must_say_what_it_lacks_and_open_engines(missing):
    table = {"problem": Echo.problem, "open": Echo.open}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (Backend,), {key: value for key, value in table.items() if key != missing})()


def test_a_backend_is_found_by_its_name_among_those_of_all_plugins(echo):
    assert isinstance(find_backend("echo"), Echo)
    assert find_backend("onnxruntime").name == "onnxruntime"


def test_a_session_is_opened_on_the_graph_itself(echo):
    Echo.opened.clear()
    session = open_session("echo", Path("model.onnx"))
    assert Echo.opened == [(Engine("echo", Path("model.onnx")), "cpu")]
    assert session.run({"x": np.ones(2)})["x"].tolist() == [1, 1]


def test_what_cannot_run_here_is_refused_with_its_reason(echo):
    with pytest.raises(EnvironmentProblem, match="'echo' cannot run here: there is no cuda:0") as caught:
        open_session("echo", Path("model.onnx"), device="cuda:0")
    assert "convkit doctor" in caught.value.hint
    with pytest.raises(SettingError, match="no backend 'ecko'") as caught:
        find_backend("ecko")
    assert "Did you mean 'echo'" in caught.value.hint
    assert caught.value.exit_code == 2


class Broken(Backend):
    """Does wrong at each of its ends what it is told to."""

    name: ClassVar[str] = "broken"
    summary: ClassVar[str] = "a backend with a mistake"

    def __init__(self, opened: Any) -> None:
        self.opened = opened

    def problem(self, device: str = "cpu") -> str:
        return ""

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        session: Session = self.opened()
        return session


class BrokenSession(Session):
    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = self.answer()
        return outputs


def boom() -> Any:
    raise ZeroDivisionError("boom")


@pytest.mark.parametrize(
    ("opened", "text"),
    [
        (boom, r"Plugin 'mine': open\(\) of backend 'broken' raised ZeroDivisionError: boom"),
        (lambda: 3, r"Plugin 'mine': open\(\) of backend 'broken' returned int, and no convkit.Session"),
        (lambda: BrokenSession(boom), r"Plugin 'mine': run\(\) of backend 'broken' raised ZeroDivisionError: boom"),
        (lambda: BrokenSession(lambda: [1]), r"Plugin 'mine': run\(\) of backend 'broken' returned list, and no dict"),
        (lambda: BrokenSession(lambda: {"y": 1}), "'mine'.* returned int for output 'y', and no numpy.ndarray"),
    ],
)
def test_a_mistake_of_a_backend_is_told_with_its_plugin(opened, text, tmp_path):
    class Plugin:
        @hookimpl
        def convkit_backends(self) -> Iterable[Backend]:
            return [Broken(opened)]

    with registered(Plugin(), "mine"), pytest.raises(AdapterError, match=text):
        open_session("broken", tmp_path / "model.onnx").run({})


def test_the_backend_of_the_documents_runs_a_graph(tmp_path):
    section = markdown.section("docs/hooks.md", "convkit_backends")
    module = ModuleType("documented")
    exec(section.text.split("```python\n")[1].split("```")[0], vars(module))
    graph = tmp_path / "model.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "", [x], [y]), ir_version=9), graph)
    with registered(module, "documented"):
        outputs = open_session("onnx-reference", graph).run({"x": np.float32([1, -2])})
    assert outputs["y"].tolist() == [-1, 2]
