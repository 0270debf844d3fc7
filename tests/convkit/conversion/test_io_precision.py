"""Inputs and outputs in float16: the graph's edges, the proof, the pipeline, engines, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.toy import ToyPlugin

from convkit import Artifact, convert, load
from convkit.artifact import spec_from_manifest, stored_engines
from convkit.backends import open_session
from convkit.bisection import bisect_artifact
from convkit.conversion import build_engine, plan_conversion
from convkit.errors import EnvironmentProblem, InputError, SettingError
from convkit.evaluation import validate
from convkit.model import Dim, ModelSpec, TensorSpec
from convkit.processing import fitted_inputs, synthetic_scenes
from convkit.proof import GoldenSamples


@pytest.fixture(scope="module")
def half(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from support.plugins import registered

    with registered(ToyPlugin()):
        return convert(
            "toy", weights=toy_weights_file, output=tmp_path_factory.mktemp("io") / "toy", precision="fp16",
            io_precision="fp16", samples=2,
        ).artifact  # fmt: skip


@pytest.fixture(scope="module")
def plain(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The same with float32 inputs and outputs."""
    from support.plugins import registered

    with registered(ToyPlugin()):
        output = tmp_path_factory.mktemp("plain") / "toy"
        return convert("toy", weights=toy_weights_file, output=output, precision="fp16", samples=2).artifact


@pytest.fixture(scope="module")
def brain(toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The toy with bfloat16 inputs and outputs."""
    from support.plugins import registered

    with registered(ToyPlugin()):
        return convert(
            "toy", weights=toy_weights_file, output=tmp_path_factory.mktemp("brain") / "toy", precision="bf16",
            io_precision="bf16", samples=2,
        ).artifact  # fmt: skip


def edges(model: onnx.ModelProto) -> dict[str, int]:
    return {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}


def test_the_graph_takes_and_gives_float16_without_a_cast(half: Artifact) -> None:
    model = onnx.load(half.model)
    onnx.checker.check_model(model, full_check=True)
    assert edges(model) == {"images": 10, "logits": 10}
    assert [node.op_type for node in model.graph.node].count("Cast") == 0
    spec = spec_from_manifest(half.manifest)
    assert [tensor.dtype for tensor in (*spec.inputs, *spec.outputs)] == ["float16", "float16"]
    assert half.manifest["precision"]["io"] == {"images": "float16", "logits": "float16"}
    assert {setting["name"]: setting["value"] for setting in half.manifest["settings"]}["io_precision"] == "fp16"


def test_bfloat16_is_in_the_graph_and_float32_on_the_host(brain: Artifact, toy: ToyPlugin) -> None:
    model = onnx.load(brain.model)
    onnx.checker.check_model(model, full_check=True)
    assert edges(model) == {"images": 16, "logits": 16}
    assert [node.op_type for node in model.graph.node].count("Cast") == 0
    assert brain.manifest["precision"]["io"] == {"images": "bfloat16", "logits": "bfloat16"}
    again = validate(brain.path)
    assert again.passed
    assert {"shape", "values", "layers", "preprocess", "decode", "pipeline"} <= {check.kind for check in again.checks}
    image = synthetic_scenes(1, seed=4)[0]
    with load(brain.path) as predictor:
        given = predictor.prepare(image).tensors["images"]
        found = predictor.outputs(image)["logits"]
        assert len(predictor.predict([image])) == 1
    for array in (given, found):
        assert array.dtype == np.float32
        assert not (array.view(np.uint32) & 0xFFFF).any(), "numbers that bfloat16 has"


def test_onnx_runtime_cannot_be_given_bfloat16(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "m.onnx")
    with pytest.raises(EnvironmentProblem, match="no bfloat16 inputs and outputs: x, y"):
        open_session("onnxruntime", tmp_path / "m.onnx")


def test_the_proof_holds_and_holds_again(half: Artifact, toy: ToyPlugin) -> None:
    again = validate(half.path)
    assert again.passed
    assert {"shape", "values", "layers", "preprocess", "decode", "pipeline"} <= {check.kind for check in again.checks}
    golden = GoldenSamples.load(half.path, spec_from_manifest(half.manifest))
    (sizes,) = golden.samples.prepared
    assert golden.samples.prepared[sizes][0].tensors["images"].dtype == np.float16
    assert golden.outputs[sizes][0]["logits"].dtype == np.float32, "the reference is not rounded"


def test_results_are_those_of_the_float32_edges(half: Artifact, plain: Artifact, toy: ToyPlugin) -> None:
    images = synthetic_scenes(3, seed=4)
    with load(half.path) as one, load(plain.path) as other:
        assert one.outputs(images[0])["logits"].dtype == np.float16
        for mine, theirs in zip(one.predict(images), other.predict(images), strict=True):
            assert np.abs(mine.probabilities - theirs.probabilities).max() < 2e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"io_precision": "bf16", "precision": "fp16"}, "io_precision bf16 is for graphs in bf16, and this is in fp16"),
        ({"io_precision": "bf16", "precision": "bf16", "to": "tensorrt-rtx"}, "inputs and outputs are bfloat16"),
        ({"io_precision": "int8", "precision": "int8"}, "io_precision cannot be 'int8'"),
        ({"io_precision": "fp16"}, "io_precision fp16 is for graphs"),
        ({"io_precision": "fp16", "precision": "bf16"}, "io_precision fp16 is for graphs"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_work(
    toy: ToyPlugin, toy_weights_file: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        plan_conversion("toy", weights=toy_weights_file, settings=settings)
    assert caught.value.hint


def test_numbers_are_rounded_to_bfloat16_in_float32() -> None:
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 3e38, np.nan], np.float32)
    (found,) = fitted_inputs([TensorSpec("x", (4,), "bfloat16")], {"x": values}).values()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, torch.from_numpy(values).bfloat16().float().numpy())


def test_numbers_beyond_float16_are_refused_and_others_rounded() -> None:
    inputs = [TensorSpec("x", ("batch", 2), "float16"), TensorSpec("n", ("batch",), "int64")]
    found = fitted_inputs(inputs, {"x": np.array([[1.0, 1 + 2**-12]], np.float32), "n": np.array([3])})
    assert (found["x"].dtype, found["n"].dtype) == (np.float16, np.int64)
    assert found["x"].tolist() == [[1.0, 1.0]]
    with pytest.raises(InputError, match=r"'x' has numbers up to 70000, and this model takes float16"):
        fitted_inputs(inputs, {"x": np.array([[1.0, 7e4]], np.float32)})


def test_a_model_without_decode_gives_float16(embedding: object, embedding_weights_file: Path, tmp_path: Path) -> None:
    done = convert(
        "embedding", weights=embedding_weights_file, output=tmp_path / "e", precision="fp16", io_precision="fp16",
        backend="torch",
    )  # fmt: skip
    assert set(edges(onnx.load(done.artifact.model)).values()) == {10}
    assert done.verdict.passed


def test_integers_and_rows_of_results_stay_what_they_are() -> None:
    spec = ModelSpec(
        "v", (Dim.fixed("batch", 1),), (TensorSpec("ids", ("batch", 4), "int64"), TensorSpec("x", ("batch", 2))),
        (TensorSpec("rows", ("batch", 5, 6), compare="results"), TensorSpec("y", ("batch", 3))), decode={"kind": "k"},
    )  # fmt: skip
    found = spec.with_edges("float16")
    assert [tensor.dtype for tensor in found.inputs] == ["int64", "float16"]
    assert [tensor.dtype for tensor in found.outputs] == ["float32", "float16"]


def test_an_engine_takes_and_gives_float16(half: Artifact, toy: ToyPlugin) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    built = build_engine(half.path, "tensorrt-rtx")
    assert built.ladder.exit_code == 0
    assert {name: built.ladder[name].status for name in ("exported", "typed", "accepted", "understood", "built")} == {
        "exported": "passed", "typed": "passed", "accepted": "passed", "understood": "passed", "built": "passed",
    }  # fmt: skip


def test_an_engine_gets_float16_edges_when_it_is_built(toy: ToyPlugin, toy_artifact: Artifact, tmp_path: Path) -> None:
    """The artifact has float32 ones; NVIDIA's genuine parser and builder take the others."""
    pytest.importorskip("tensorrt_rtx_bindings")
    copy = shutil.copytree(toy_artifact.path, tmp_path / "toy")
    built = build_engine(copy, "tensorrt-rtx", targets=["sm86"], precision="fp16", io_precision="fp16")
    assert built.ladder.exit_code == 0
    assert [built.ladder[name].status for name in ("typed", "understood", "built")] == ["passed"] * 3
    assert set(edges(onnx.load(built.folder / "model.onnx")).values()) == {10}
    assert stored_engines(Artifact.open(copy))["tensorrt-rtx"].summary()["io"]["images"] == "float16"
    found = bisect_artifact(copy, ["torch:tensorrt-rtx"], samples=1)
    assert found.nodes


def test_an_artifact_that_is_typed_already_gets_them_too(toy: ToyPlugin, plain: Artifact) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    built = build_engine(plain.path, "tensorrt-rtx", targets=["sm86"], io_precision="fp16")
    assert built.ladder.exit_code == 0
    model = onnx.load(built.folder / "model.onnx")
    assert set(edges(model).values()) == {10}
    assert [node.op_type for node in model.graph.node].count("Cast") == 0


@pytest.mark.parametrize(
    ("artifact", "settings", "message"),
    [
        ("toy_artifact", {"io_precision": "bf16", "precision": "bf16"}, "inputs and outputs are bfloat16"),
        ("toy_artifact", {"io_precision": "fp16"}, "for engines in fp16 or int8 or auto, and this is in fp32"),
        ("toy_artifact", {"io_precision": "fp16", "precision": "bf16"}, "and this is in bf16"),
        ("brain", {}, "inputs and outputs are bfloat16"),
        ("half", {"io_precision": "fp32"}, "cannot be fp32: images, logits of the artifact are float16"),
    ],
)
def test_edges_that_an_engine_cannot_have_are_refused_before_the_work(
    toy: ToyPlugin, request: pytest.FixtureRequest, artifact: str, settings: dict[str, str], message: str
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    found: Artifact = request.getfixturevalue(artifact)
    before = sorted(found.path.rglob("*"))
    with pytest.raises(SettingError, match=message) as caught:
        build_engine(found.path, "tensorrt-rtx", **settings)  # type: ignore[arg-type]
    assert caught.value.hint
    assert sorted(found.path.rglob("*")) == before
