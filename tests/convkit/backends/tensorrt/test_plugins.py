"""Plugins of TensorRT: registered where a model is parsed, replayed by their reference, told when they fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import inverse_plugin
from support.plugins import registered

from convkit import TensorRTPlugin, hookimpl
from convkit.backends import BuildRequest, Engine, find_builder, own_plugins
from convkit.backends.tensorrt import Build, Outcome, Task, find_flavour, run_tasks
from convkit.backends.tensorrt._backend import TensorRT
from convkit.backends.tensorrt._replay._plugins import plugin_replay
from convkit.errors import ConvkitError, EnvironmentProblem, PluginError

pytest.importorskip("tensorrt_rtx_bindings")

RTX = find_flavour("tensorrt-rtx")
FEEDS = {"x": (np.random.default_rng(0).standard_normal((2, 4, 4)) + 4 * np.eye(4)).astype(np.float32)}


def one_node(operator: str = "Inverse", domain: str = inverse_plugin.DOMAIN) -> onnx.ModelProto:
    """Return a graph of an operator and a ReLU."""
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["d"], name="it", domain=domain), helper.make_node("Relu", ["d"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 4])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(inverse_plugin.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(one_node(), tmp_path / "inverse.onnx")
    return tmp_path / "inverse.onnx"


class InversePlugin:
    """A plugin of convkit that brings the plugin of TensorRT."""

    def __init__(self, fault: str = "", reference: str = "inverse", *, to_run: bool = True) -> None:
        register = f"{inverse_plugin.PLACE}:register{f'_{fault}' if fault else ''}"
        place = f"{inverse_plugin.PLACE}:{reference}" if reference else ""
        self.plugin = TensorRTPlugin(
            "Inverse", "Inverse", "1", "test", register=register, reference=place, to_run=to_run
        )

    @hookimpl
    def convkit_tensorrt_plugins(self, target: Any) -> list[TensorRTPlugin]:
        return [self.plugin] if target.format == RTX.name else []


@pytest.fixture(autouse=True)
def _fresh_references() -> Iterator[None]:
    plugin_replay.cache_clear()
    yield
    plugin_replay.cache_clear()


def build(model: Path, plugin: InversePlugin) -> Engine:
    with registered(plugin, "inverse"):
        return find_builder(RTX.name).build(model, model.parent, BuildRequest(("sm86",), feeds=[FEEDS]))


def parse(model: Path, fault: str, *, read: bool = True) -> Outcome:
    place = InversePlugin(fault).plugin.register
    (outcome,) = run_tasks(RTX, [Task(model, read=read, build=Build(("sm86",)), plugins=(place,))])
    return outcome


def test_a_node_without_its_plugin_is_refused(model: Path) -> None:
    engine = find_builder(RTX.name).build(model, model.parent, BuildRequest(("sm86",), feeds=[FEEDS]))
    assert engine.ladder["accepted"].status == "failed"
    assert engine.details["plugins"] == []


@pytest.mark.parametrize(
    ("to_run", "said"),
    [(True, "It contains no code of Inverse"), (False, "It contains the code of Inverse")],
)
def test_a_plugin_is_registered_replayed_and_named(model: Path, to_run: bool, said: str) -> None:
    engine = build(model, InversePlugin(to_run=to_run))
    states = {rung.name: rung.status for rung in engine.ladder.rungs}
    assert states == {"accepted": "passed", "understood": "passed", "built": "passed", "ran": "pending"}
    assert said in engine.ladder["built"].summary
    assert engine.details["plugins"] == (["Inverse"] if to_run else [])


def test_a_build_without_plugins_says_nothing_of_them(tmp_path: Path) -> None:
    onnx.save(one_node("Tanh", ""), tmp_path / "tanh.onnx")
    summary = build(tmp_path / "tanh.onnx", InversePlugin()).ladder["built"].summary
    assert re.fullmatch(r"An engine of \d+ bytes for sm86\.", summary)


def test_a_reference_that_differs_is_a_failed_replay(model: Path) -> None:
    ladder = build(model, InversePlugin(reference="transposed")).ladder
    assert ladder["understood"].status == "failed"
    assert "'it'" in ladder["understood"].summary
    assert ladder.exit_code == 4


def test_a_plugin_without_a_reference_is_not_replayed(model: Path) -> None:
    rung = build(model, InversePlugin(reference="")).ladder["understood"]
    assert rung.status == "not replayed"
    assert "Inverse" in rung.summary


@pytest.mark.parametrize(
    "fault",
    ["create_plugin", "get_output_data_types", "get_output_shapes", "supports_format_combination", "configure_plugin",
     "get_workspace_size", "get_fields_to_serialize"],
)  # fmt: skip
def test_what_a_plugin_tells_becomes_an_error(model: Path, fault: str) -> None:
    # TensorRT swallows what is raised in the last two while it builds.
    outcome = parse(model, fault, read=False)
    assert isinstance(outcome.problem, PluginError), outcome.problem
    assert f"Inverse: {fault} was told to fail" in outcome.problem.message
    assert outcome.plan is None
    with pytest.raises(PluginError, match=f"Inverse: {fault}|'Inverse' does not say what it serialises"):
        build(model, InversePlugin(fault))


def test_fields_that_a_plugin_cannot_give_are_an_error_even_if_it_says_nothing(model: Path) -> None:
    outcome = parse(model, "silent_get_fields_to_serialize")
    assert isinstance(outcome.problem, PluginError)
    assert "'Inverse'" in outcome.problem.message
    assert "planted" in outcome.problem.message


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (f"{inverse_plugin.PLACE}:register_nothing", "no such library"),
        ("support.inverse_plugins:register", "inverse_plugins"),
        (f"{inverse_plugin.PLACE}:nothing", "names no function"),
        (f"{inverse_plugin.PLACE}:PLACE", "not a function"),
        ("nonsense", "names no function"),
    ],
)
def test_a_plugin_that_cannot_be_registered_is_an_error(model: Path, place: str, said: str) -> None:
    (outcome,) = run_tasks(RTX, [Task(model, plugins=(place,))])
    assert isinstance(outcome.problem, ConvkitError)
    assert said in outcome.problem.message
    assert outcome.problem.hint


def test_a_failure_stays_with_its_task(model: Path, tmp_path: Path) -> None:
    place = InversePlugin("get_workspace_size").plugin.register
    tasks = [Task(model, build=Build(("sm86",)), plugins=(place,)), Task(model, read=True, plugins=(place,))]
    first, second = run_tasks(RTX, tasks)
    assert isinstance(first.problem, PluginError)
    assert second.accepted, "its parsing does not fail"


def test_plugins_are_found_by_backend_and_operator() -> None:
    with registered(InversePlugin(), "inverse") as mine:
        assert own_plugins(RTX.name, ["Inverse"]) == [mine.plugin]
        assert mine.plugin in own_plugins(RTX.name)
        assert own_plugins(RTX.name, ["Conv"]) == []
        assert own_plugins("tensorrt", ["Inverse"]) == []


def test_an_engine_whose_plugin_is_not_loaded_is_refused(tmp_path: Path) -> None:
    backend = find_builder(RTX.name)
    assert isinstance(backend, TensorRT)
    engine = Engine(RTX.name, tmp_path / "model.plan", ("sm86",), {"plugins": ["Inverse"]})
    with pytest.raises(EnvironmentProblem, match="'Inverse'") as caught:
        backend._to_run(engine)
    assert "convkit plugins" in caught.value.hint
    with registered(InversePlugin(), "inverse") as mine:
        assert backend._to_run(engine) == [mine.plugin.register]
