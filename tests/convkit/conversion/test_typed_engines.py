"""Engines in fp16 and bf16: typed, proved by PyTorch, understood and built by NVIDIA's genuine TensorRT-RTX."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest
import torch
from support.disturb import DisturbPlugin
from support.plans import same_plan
from support.plugins import registered
from support.toy import ToyPlugin, toy_weights

from convkit import Artifact, convert
from convkit.artifact import stored_engines
from convkit.backends import RUNGS
from convkit.conversion import BuiltEngine, build_engine
from convkit.errors import ConversionError, ProofFailedError, SettingError

pytest.importorskip("tensorrt_rtx_bindings")

NAME = "tensorrt-rtx"
PRECISIONS = {"fp16": ("HALF", "float16"), "bf16": ("BF16", "bfloat16")}
DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits_resdcn18.pth"


@pytest.fixture
def artifact(toy_artifact: Artifact, tmp_path: Path, toy: ToyPlugin) -> Artifact:
    """A copy of the toy's artifact, with its plugin installed."""
    return Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "toy"))


def assert_proved(built: BuiltEngine, precision: str) -> None:
    """Check every rung, and that the network that NVIDIA's parser made has the types that were asked for."""
    states = {rung.name: rung.status for rung in built.ladder.rungs}
    assert states == {
        "exported": "passed", "typed": "passed", "decoded": "passed", "accepted": "passed", "understood": "passed",
        "built": "passed",
        "ran": "pending", "pipeline": "pending",
    }  # fmt: skip
    assert list(states) == list(RUNGS)
    description = json.loads((built.folder / "engine.json").read_text())
    assert description["precision"] == precision
    layers = {layer["node"]: layer for layer in description["layers"] if layer["type"] == "CONVOLUTION"}
    kinds = {kind for layer in layers.values() for kind in layer["outputs"]}
    assert kinds <= {PRECISIONS[precision][0], "FLOAT"}
    assert PRECISIONS[precision][0] in kinds
    found = built.ladder["built"].details["precision"]
    assert found["silent"] == []
    assert found["layers"][precision] > 0
    assert f"{precision} asked: " in built.ladder["built"].summary
    assert all(layer["reason"] for layer in found["kept"])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_artifact_is_built_in_16_bits(artifact: Artifact, precision: str) -> None:
    before = artifact.model.read_bytes()
    built = build_engine(artifact.path, NAME, targets=["sm86,sm120"], precision=precision)
    assert_proved(built, precision)
    assert artifact.model.read_bytes() == before, "the artifact's own graph stays float32"
    model = onnx.load(built.folder / "model.onnx")
    edges = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert edges == {onnx.TensorProto.FLOAT}
    typed = built.ladder["typed"].details
    assert typed["rewrites"][f"graph.to-{precision}"] > 3
    unit = torch.finfo(getattr(torch, PRECISIONS[precision][1])).eps
    assert typed["baselines"]["logits"]["ulp"] == unit
    assert typed["baselines"]["logits"]["rel_l2"] > unit / 100, "PyTorch's own error in 16 bits, not in 32"
    assert not list(built.folder.glob(".*"))
    stored_engines(artifact)[NAME].verify(artifact)


def test_float32_engines_have_no_rung_typed(artifact: Artifact) -> None:
    built = build_engine(artifact.path, NAME, targets=["sm86"], precision="fp32")
    assert built.ladder["typed"].status == "not applicable"
    assert json.loads((built.folder / "engine.json").read_text())["precision"] == "fp32"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_rebuild_gives_the_same_plan(artifact: Artifact, precision: str) -> None:
    first = build_engine(artifact.path, NAME, targets=["sm86"], precision=precision).engine.file.read_bytes()
    second = build_engine(artifact.path, NAME, targets=["sm86"], precision=precision).engine.file.read_bytes()
    assert same_plan(first, second)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "form"), [("fp16", "grid-sample"), ("bf16", "gather")])
def test_deformable_convolutions_are_16_bit_with_float32_positions(
    digits_artifact: Artifact, tmp_path: Path, precision: str, form: str
) -> None:
    copy = shutil.copytree(digits_artifact.path, tmp_path / "digits")
    built = build_engine(copy, NAME, targets=["sm86"], precision=precision, options={"dcn": form})
    assert_proved(built, precision)
    model = onnx.shape_inference.infer_shapes(onnx.load(built.folder / "model.onnx"))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    positions = [name for name in kinds if name.endswith(".positions")]
    products = [name for name in kinds if name.endswith("DeformConv.conv")]
    assert len(positions) == 3
    assert {kinds[name] for name in positions} == {onnx.TensorProto.FLOAT}
    assert len(products) == 3
    assert {kinds[name] for name in products} == {getattr(onnx.TensorProto, PRECISIONS[precision][1].upper())}
    kept = built.ladder["built"].details["precision"]["kept"]
    assert any("positions and interpolation" in layer["reason"] for layer in kept)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_detections_in_the_graph_are_those_of_float32(
    digits_detections_artifact: Artifact, tmp_path: Path, precision: str
) -> None:
    copy = shutil.copytree(digits_detections_artifact.path, tmp_path / "digits")
    built = build_engine(copy, NAME, targets=["sm86"], precision=precision)
    assert_proved(built, precision)
    kept = built.ladder["typed"].details["float32"]
    assert any("decides on its result" in text and text.startswith("hm.2/Conv") for text in kept)
    assert any(text.startswith("TopK") for text in kept)
    decoded = built.ladder["typed"].details["baselines"]["decoded results"]
    assert decoded["unexplained"] <= 100 * 0.1 / 3


@pytest.mark.parametrize(("precision", "factor"), [("fp16", 1.1), ("bf16", 1.5)])
def test_a_fault_in_the_typed_graph_fails_its_rung(artifact: Artifact, precision: str, factor: float) -> None:
    with registered(DisturbPlugin(factor), "a_disturbing_one"), pytest.raises(ProofFailedError) as caught:
        build_engine(artifact.path, NAME, targets=["sm86"], precision=precision)
    assert caught.value.exit_code == 4
    assert not (artifact.path / "engines" / NAME).exists()
    ladder = json.loads((artifact.path / "engines" / f"{NAME}.rejected" / "verdict.json").read_text())["ladder"]
    found = {name: rung["status"] for name, rung in ladder.items()}
    assert (found.pop("exported"), found.pop("typed")) == ("passed", "failed")
    assert found.pop("decoded") in ("passed", "failed", "pending")
    assert set(found.values()) == {"pending"}
    assert any(check["output"] == "logits" for check in ladder["typed"]["checks"])


def test_without_a_fault_the_same_rewrite_passes(artifact: Artifact) -> None:
    with registered(DisturbPlugin(1.0), "a_disturbing_one"):
        assert_proved(build_engine(artifact.path, NAME, targets=["sm86"], precision="fp16"), "fp16")


def test_a_network_that_overflows_in_float16_is_refused_and_bfloat16_helps(toy: ToyPlugin, tmp_path: Path) -> None:
    """Weights of hundreds of thousands, which the next layer scales back: fine in float32, and no float16 has them."""
    state = toy_weights()
    for name in ("stem.1.weight", "stem.1.bias"):
        state[name] *= 1e6
    state["body.weight"] /= 1e6
    torch.save(state, tmp_path / "large.pth")
    done = convert("toy", weights=tmp_path / "large.pth", output=tmp_path / "large", samples=2)
    message = r"fp16 was asked for, and 100% of the arithmetic stayed float32: .*, beyond 65504"
    with pytest.raises(ConversionError, match=message) as caught:
        build_engine(done.artifact.path, NAME, targets=["sm86"], precision="fp16")
    assert "--precision bf16" in caught.value.hint
    assert not list(done.artifact.path.glob("engines/*")), "nothing is left behind"
    assert_proved(build_engine(done.artifact.path, NAME, targets=["sm86"], precision="bf16"), "bf16")


def test_bfloat16_for_turing_is_refused_by_the_builder_with_a_remedy(artifact: Artifact) -> None:
    with pytest.raises(ConversionError, match="sm75") as caught:
        build_engine(artifact.path, NAME, targets=["sm75,sm86"], precision="bf16")
    assert "use fp16, or leave sm75 out (--target sm86)" in caught.value.hint
    assert_proved(build_engine(artifact.path, NAME, targets=["sm75,sm86"], precision="fp16"), "fp16")


@pytest.mark.parametrize("precision", ["fp8", "half", ""])
def test_other_precisions_are_refused_before_anything_is_read(tmp_path: Path, precision: str) -> None:
    with pytest.raises(SettingError, match="precision cannot be") as caught:
        build_engine(tmp_path / "nothing", NAME, precision=precision)
    assert "fp32, fp16, bf16, int8" in caught.value.hint


def test_convert_types_the_artifact_and_builds_its_engine_from_the_typed_graph(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path
) -> None:
    done = convert(
        "toy", weights=toy_weights_file, output=tmp_path / "toy", to=NAME, target="sm86", samples=2, precision="fp16"
    )
    assert done.engine is not None
    assert_proved(done.engine, "fp16")
    assert done.artifact.manifest["graph"]["precision"] == "fp16"
    typed = done.engine.ladder["typed"].details
    assert typed["rewrites"]["graph.to-fp16"] > 3
    assert typed["baselines"] == done.verdict.to_json()["baselines"], "the artifact's own yardstick"
    again = build_engine(done.artifact.path, NAME, targets=["sm86"])
    assert again.engine.details["layers"] == done.engine.engine.details["layers"]
    with pytest.raises(SettingError, match="is fp16, and an engine in bf16") as caught:
        build_engine(done.artifact.path, NAME, targets=["sm86"], precision="bf16")
    assert "--precision bf16" in caught.value.hint


@pytest.mark.slow
def test_a_typed_artifact_is_fitted_and_keeps_its_types(tmp_path: Path) -> None:
    """What a rewrite of phase target changed is proved in float32 and in 16 bits; the creator needs no change."""
    shape = ["batch=1:1:2", "height=64", "width=64"]
    done = convert(
        "centernet", weights=DIGITS, output=tmp_path / "digits", shape=shape, samples=2, precision="fp16",
        set={"dcn": "grid-sample"}, to=NAME, target="sm86",
    )  # fmt: skip
    assert done.engine is not None
    assert_proved(done.engine, "fp16")
    assert done.engine.ladder["exported"].summary.startswith("Rewritten by dcnv2.decompose")
    built = build_engine(done.artifact.path, NAME, targets=["sm86"], options={"dcn": "creator"})
    assert_proved(built, "fp16")
    assert built.ladder["exported"].summary.startswith("The graph of the artifact")
