"""What a backend is: engines, what the defaults do, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from support.plugins import registered

from convkit import Backend, Engine, Session, hookimpl
from convkit.backends import BuildRequest, find_backend, open_session
from convkit.errors import EnvironmentProblem, SettingError


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
    with pytest.raises(EnvironmentProblem, match="no backend 'ecko'") as caught:
        find_backend("ecko")
    assert "Did you mean 'echo'" in caught.value.hint
    assert caught.value.exit_code == 5
