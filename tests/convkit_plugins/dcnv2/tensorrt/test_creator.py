"""NVIDIA's genuine parser and builder with the creator of DeformConv: parsed, replayed, built; nothing is run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import creator_faults
from support.deform_layers import DeformLayer
from support.plans import same_plan

from convkit import TensorRTPlugin
from convkit.backends import BuildRequest, Engine, find_builder, own_plugins
from convkit.backends.tensorrt import Build, Outcome, Task, find_flavour, run_tasks, understand
from convkit.errors import PluginError
from convkit.graph import apply_rewrite
from convkit_plugins.dcnv2.export import CompleteInputs
from convkit_plugins.dcnv2.tensorrt._settings import Settings

pytest.importorskip("tensorrt_rtx_bindings")

RTX = "tensorrt-rtx"
TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120")
SQUARE = DeformLayer(channels=16, filters=8, size=(8, 10))
LAYERS = {
    "square": SQUARE,
    "half": replace(SQUARE, dtype=np.float16),
    "half, odd channels": DeformLayer(dtype=np.float16),
    "opset 19": replace(SQUARE, opset=19),
    "opset 22": replace(SQUARE, opset=22),
    "neither bias nor mask": DeformLayer(bias=False, mask=False),
    "no mask": DeformLayer(mask=False),
    "kernel of one": DeformLayer(kernel=(1, 1), pads=(0, 0, 0, 0)),
    "everything": DeformLayer(
        kernel=(3, 2), stride=(2, 1), pads=(0, 1, 2, 3), dilation=(1, 2), offset_group=2, size=(9, 11)
    ),
    "everything, half": DeformLayer(
        channels=32, kernel=(2, 3), stride=(1, 2), pads=(1, 0, 1, 0), dilation=(2, 1), offset_group=2, size=(9, 11),
        dtype=np.float16,
    ),
}  # fmt: skip
SIZES = ((1, (7, 9)), (2, (8, 12)), (4, (16, 16)))
"""Batch, height and width of the lowest, best and highest shapes."""


def the_plugin() -> TensorRTPlugin:
    (plugin,) = own_plugins(RTX, ["DeformConv"])
    return plugin


def ranges(layer: DeformLayer) -> dict[str, Any]:
    corners = [replace(layer, batch=batch, size=size).feeds() for batch, size in SIZES]
    return {name: tuple(feeds[name].shape for feeds in corners) for name in corners[0]}


def parse(
    folder: Path, models: Iterable[onnx.ModelProto], build: Build | None = None, register: str = ""
) -> list[Outcome]:
    """Return what comes of models in one child process."""
    tasks = []
    for index, model in enumerate(models):
        file = folder / f"{index}.onnx"
        onnx.save(model, file)
        tasks.append(Task(file, read=True, build=build, plugins=(register or the_plugin().register,)))
    return run_tasks(find_flavour(RTX), tasks)


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("layers")
    models = [layer.model() for layer in LAYERS.values()]
    return dict(zip(LAYERS, parse(folder, models, Build(TARGETS)), strict=True))


@pytest.mark.parametrize("name", LAYERS)
def test_the_node_is_taken_unchanged_understood_and_built_for_every_target(
    parsed: dict[str, Outcome], name: str
) -> None:
    layer, outcome = LAYERS[name], parsed[name]
    assert outcome.accepted, outcome.errors
    assert outcome.network is not None
    (plugin,) = [found for found in outcome.network.layers if found.type == "PLUGIN_V3"]
    assert Settings.from_fields(plugin.attributes["fields"]) == Settings(
        layer.kernel, layer.stride, layer.pads, layer.dilation, layer.offset_group
    )
    (kind,) = {outcome.network.tensors[index].dtype for index in (*plugin.inputs, *plugin.outputs)}
    assert kind == {"float32": "FLOAT", "float16": "HALF"}[np.dtype(layer.dtype).name]
    found = understand(outcome.network, layer.model(), [layer.feeds(), layer.feeds(1)])
    assert found.passed, found.parting
    assert dict(outcome.targets) == dict.fromkeys(TARGETS, "")
    assert outcome.plan is not None


def test_bfloat16_is_built_where_there_is_hardware_for_it(tmp_path: Path) -> None:
    model = SQUARE.model()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    for tensor in model.graph.initializer:
        bits = onnx.numpy_helper.to_array(tensor).view(np.uint32) >> 16
        tensor.raw_data, tensor.data_type = bits.astype(np.uint16).tobytes(), onnx.TensorProto.BFLOAT16
    (outcome,) = parse(tmp_path, [model], Build(TARGETS[1:]))
    assert outcome.plan is not None, (outcome.errors, outcome.targets)


def test_height_width_and_batch_may_vary(tmp_path: Path) -> None:
    layers = [replace(LAYERS[name], dynamic="nhw") for name in ("square", "half", "everything", "everything, half")]
    for layer in layers:
        (outcome,) = parse(tmp_path, [layer.model()], Build(TARGETS, ranges(layer)))
        assert outcome.plan is not None, (outcome.errors, outcome.targets)
        assert outcome.network is not None
        feeds = [replace(layer, batch=batch, size=size).feeds() for batch, size in SIZES]
        found = understand(outcome.network, layer.model(), feeds)
        assert found.passed, found.parting


def test_a_rebuild_gives_the_same_plan(tmp_path: Path, parsed: dict[str, Outcome]) -> None:
    outcomes = parse(tmp_path, [LAYERS["half"].model()] * 2, Build(TARGETS))
    assert all(same_plan(outcome.plan, parsed["half"].plan) for outcome in outcomes)


def test_a_network_may_have_several_of_them(tmp_path: Path) -> None:
    first, second = DeformLayer(bias=False, mask=False, filters=4), DeformLayer(mask=False, channels=4)
    model = onnx.compose.merge_models(
        first.model(), onnx.compose.add_prefix(second.model(), "b_"), io_map=[("y", "b_x")]
    )
    (outcome,) = parse(tmp_path, [model], Build(("sm86",)))
    assert outcome.network is not None
    assert [layer.type for layer in outcome.network.layers].count("PLUGIN_V3") == 2
    feeds = {**first.feeds(), "b_offset": second.feeds(1)["offset"]}
    assert understand(outcome.network, model, [feeds]).passed
    assert outcome.plan is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("bias", "mask"), [(False, True), (False, False), (True, False)])
def test_inputs_with_empty_names_are_completed(tmp_path: Path, bias: bool, mask: bool, dtype: Any) -> None:
    layer = DeformLayer(bias=bias, mask=mask, dtype=dtype)
    model = layer.model()
    (node,) = model.graph.node
    node.input.extend([""] * (5 - len(node.input)))
    (refused,) = parse(tmp_path, [model])
    assert not refused.accepted, "if the parser takes empty names now, the rewrite is not needed"
    completed, record = apply_rewrite(model, CompleteInputs())
    assert record.fired == 1
    (outcome,) = parse(tmp_path, [completed])
    assert outcome.network is not None, outcome.errors
    assert understand(outcome.network, model, [layer.feeds()]).passed


def test_complete_inputs_are_left_alone() -> None:
    for layer in (SQUARE, DeformLayer(mask=False), DeformLayer(bias=False, mask=False)):
        assert apply_rewrite(layer.model(), CompleteInputs())[1].fired == 0


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (DeformLayer(group=2), "grouped convolution"),
        (DeformLayer(channels=5, offset_group=1), "7 channels"),
    ],
)
def test_what_the_kernels_cannot_serve_is_refused_with_a_remedy(tmp_path: Path, layer: DeformLayer, said: str) -> None:
    model = layer.model()
    if layer.group == 1:  # a weight for more channels than x has, which the checker does not see
        shape = model.graph.input[0].type.tensor_type.shape
        shape.dim[1].dim_value = 7
    (outcome,) = parse(tmp_path, [model])
    assert isinstance(outcome.problem, PluginError)
    assert "DeformConv 'dcn'" in outcome.problem.message
    assert said in outcome.problem.message or "[2, 5, 7, 9]" in outcome.problem.message
    assert "dcn=grid-sample" in outcome.problem.message


@pytest.mark.parametrize("callback", creator_faults.CALLBACKS)
def test_what_a_callback_raises_is_told(tmp_path: Path, callback: str) -> None:
    (outcome,) = parse(tmp_path, [SQUARE.model()], Build(("sm86",)), f"support.creator_faults:register_{callback}")
    assert isinstance(outcome.problem, PluginError), outcome.problem
    assert f"DeformConv 'dcn', {callback}: ValueError: {creator_faults.PLANTED}" in outcome.problem.message
    assert outcome.plan is None


def test_a_name_that_is_taken_is_an_error_and_twice_the_same_is_none(tmp_path: Path) -> None:
    (taken,) = parse(tmp_path, [SQUARE.model()], register="support.creator_faults:register_after_another")
    assert isinstance(taken.problem, PluginError)
    assert "has registered" in taken.problem.message
    assert "dcn=grid-sample" in taken.problem.hint
    (fine,) = parse(tmp_path, [SQUARE.model()], register="support.creator_faults:register_twice")
    assert fine.accepted


def build(folder: Path, layer: DeformLayer) -> Engine:
    onnx.save(layer.model(), folder / "layer.onnx")
    request = BuildRequest(("sm86",), feeds=[layer.feeds()])
    return find_builder(RTX).build(folder / "layer.onnx", folder, request)


def test_the_backend_says_who_runs_the_engine(tmp_path: Path) -> None:
    engine = build(tmp_path, SQUARE)
    assert {rung.name: rung.status for rung in engine.ladder.rungs} == {
        "accepted": "passed", "understood": "passed", "built": "passed", "ran": "pending",
    }  # fmt: skip
    assert engine.details["plugins"] == ["DeformConv"]
    assert "It contains no code of DeformConv" in engine.ladder["built"].summary


def test_a_plugin_that_computes_something_else_is_not_understood(tmp_path: Path) -> None:
    layer = DeformLayer(dilation=(1, 2), pads=(1, 2, 1, 2))
    (outcome,) = parse(tmp_path, [layer.model()])
    assert outcome.network is not None
    assert understand(outcome.network, layer.model(), [layer.feeds()]).passed
    (plugin,) = [found for found in outcome.network.layers if found.type == "PLUGIN_V3"]
    plugin.attributes["fields"]["pads"][:] = [0, 2, 2, 2]
    parting = understand(outcome.network, layer.model(), [layer.feeds()]).parting
    assert parting is not None
    assert parting.operator == "DeformConv"
