"""An artifact with a deformable convolution and its graph for full TensorRT: rewritten and proved by the torch backend.

TensorRT's own part of the build is a stand-in here, which keeps the graph that it is given.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.aot_on_rtx import PLACE
from support.deform_layers import DeformLayer
from support.graphs import op_types

from convkit import Artifact, convert
from convkit.backends import Backend, BuildRequest, Engine, Ladder, Session, own_plugins
from convkit.backends.tensorrt import ParsedNetwork, Task, find_flavour, replay, run_tasks, understand
from convkit.conversion import build_engine
from convkit.errors import ProofFailedError, SettingError
from convkit.graph import apply_rewrite
from convkit.progress import Progress, silent
from convkit_plugins.dcnv2.export import TensorRTPluginNode
from convkit_plugins.dcnv2.tensorrt import AotSettings, pack

TENSORRT = "tensorrt"


class Keeps(Backend):
    """A builder that builds nothing and keeps what it is asked to build."""

    name = TENSORRT
    builds = True
    given: onnx.ModelProto

    def problem(self, device: str = "cpu") -> str:
        return ""

    def build(self, graph: Path, folder: Path, request: BuildRequest, progress: Progress = silent) -> Engine:
        Keeps.given = onnx.load(str(graph))
        Keeps.feeds = request.feeds
        (folder / "model.plan").write_bytes(b"none")
        return Engine(self.name, folder / "model.plan", (), {}, Ladder(()))

    def open(self, engine: Engine, *, device: str = "cpu") -> Session:
        raise NotImplementedError


@pytest.fixture
def artifact(converted: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.setattr("convkit.conversion._engines.find_builder", lambda name: Keeps())
    return Artifact.open(shutil.copytree(converted.path, tmp_path / "deformable"))


def test_the_graph_with_the_plugin_is_proved_by_torch(artifact: Artifact) -> None:
    built = build_engine(artifact.path, TENSORRT, options={"dcn": "plugin"})
    rung = built.ladder["exported"]
    assert rung.status == "passed"
    assert rung.details["backend"] == "torch"
    assert "on torch (cpu)" in rung.summary
    assert rung.details["rewrites"] == {"dcnv2.tensorrt-plugin": 1}
    assert "DCNv2" in op_types(Keeps.given)
    (plugin,) = own_plugins(TENSORRT, op_types(Keeps.given))
    assert (plugin.plugin, plugin.to_run) == ("DCNv2", False)
    stored = onnx.load(str(built.folder / "model.onnx"))
    assert op_types(stored) == op_types(Keeps.given)
    assert json.loads((built.folder / "engine.json").read_text())["options"]["dcn"] == "plugin"


@pytest.mark.parametrize(("dcn", "kept"), [("native", "DeformConv"), ("gather", "GatherND"), ("auto", "GatherND")])
def test_other_ways_are_proved_by_onnx_runtime(artifact: Artifact, dcn: str, kept: str) -> None:
    rung = build_engine(artifact.path, TENSORRT, options={"dcn": dcn}).ladder["exported"]
    assert rung.status == "passed"
    assert rung.details.get("backend", "onnxruntime") == "onnxruntime"
    assert kept in op_types(Keeps.given)


def test_wrong_weights_are_a_failed_proof(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """What packs the weights has no part in the proof: exchanged weights are found."""

    def exchanged(weight: np.ndarray, settings: AotSettings) -> np.ndarray:
        packed = pack(weight, settings).copy()
        packed[[0, 1]] = packed[[1, 0]] + 1
        return packed

    monkeypatch.setattr("convkit_plugins.dcnv2.export._tensorrt_plugin.pack", exchanged)
    with pytest.raises(ProofFailedError, match="does not compute what the model computes"):
        build_engine(artifact.path, TENSORRT, options={"dcn": "plugin"})
    assert not (artifact.path / "engines" / TENSORRT).exists()


@pytest.mark.usefixtures("converted")
def test_a_way_that_the_engine_lacks_is_refused_before_the_conversion(tmp_path: Path) -> None:
    """Before anything is read: there are no weights."""
    with pytest.raises(SettingError, match="tensorrt-rtx has no way dcn=native"):
        convert("toy", weights=tmp_path / "none", output=tmp_path / "toy", to="tensorrt-rtx", set={"dcn": "native"})
    assert not (tmp_path / "toy").exists()


LAYER = DeformLayer(channels=16, filters=24, kernel=(3, 2), stride=(2, 1), pads=(0, 1, 2, 1), offset_group=2)


def parsed(model: onnx.ModelProto, folder: Path) -> ParsedNetwork:
    """What NVIDIA's genuine parser makes of the node, where a plugin takes its attributes."""
    pytest.importorskip("tensorrt_rtx_bindings")
    file = folder / "node.onnx"
    onnx.save(model, str(file))
    (outcome,) = run_tasks(find_flavour("tensorrt-rtx"), [Task(file, read=True, plugins=(PLACE,))])
    assert outcome.problem is None, outcome.problem
    assert not outcome.errors, outcome.errors
    assert outcome.network is not None
    return outcome.network


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dynamic", ["", "nhw"])
def test_the_parsed_node_is_replayed_by_its_reference(dtype: type[np.floating], dynamic: str, tmp_path: Path) -> None:
    layer = replace(LAYER, dtype=dtype, dynamic=dynamic)
    model, _ = apply_rewrite(layer.model(), TensorRTPluginNode())
    network = parsed(model, tmp_path)
    (plugin,) = (found for found in network.layers if found.type == "PLUGIN_V3")
    assert (plugin.attributes["plugin_name"], plugin.attributes["plugin_namespace"]) == ("DCNv2", "convkit")
    assert AotSettings.from_fields(plugin.attributes["fields"]).layer.kernel == (3, 2)
    feeds = {name: np.nan_to_num(value, posinf=99, neginf=-99) for name, value in layer.feeds().items()}
    found = understand(network, model, [feeds])
    assert found.passed, found.parting
    assert found.reference.startswith("PyTorch ")
    expected = layer.by_definition(feeds)
    (result,) = replay(network, feeds).values()
    bound = 1e-5 if dtype == np.float32 else 2e-3
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=0, atol=bound * np.abs(expected).max())


def test_an_attribute_that_the_parser_gets_wrong_is_found(tmp_path: Path) -> None:
    model, _ = apply_rewrite(LAYER.model(), TensorRTPluginNode())
    other = onnx.ModelProto()
    other.CopyFrom(model)
    (node,) = other.graph.node
    (pad,) = (attribute for attribute in node.attribute if attribute.name == "pad_left")
    pad.ints[0] = 0
    found = understand(parsed(other, tmp_path), model, [LAYER.feeds()])
    assert found.parting is not None
    assert (found.parting.operator, found.parting.name) == ("DCNv2", "dcn")
