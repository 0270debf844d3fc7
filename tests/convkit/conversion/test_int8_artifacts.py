"""Artifacts and engines in int8: calibrated with inputs that the manifest names, proved by fake quantisation."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from support.plugins import registered
from support.toy import ToyNet, ToyPlugin

from convkit import Artifact, Conversion, convert, validate
from convkit.artifact import spec_from_manifest
from convkit.backends import open_artifact, open_session
from convkit.conversion import CalibrationSet, build_engine
from convkit.errors import ConversionError, EnvironmentProblem, InputError, SettingError
from convkit.proof import GoldenSamples, prove_again

COUNT = 9


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of different images, for calibration."""
    folder = tmp_path_factory.mktemp("calibration") / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        cv2.imwrite(str(folder / f"{number}.png"), generator.integers(0, 256, (40, 50, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_weights_file: Path, pictures: Path) -> Conversion:
    with registered(ToyPlugin()):
        output = tmp_path_factory.mktemp("int8") / "toy"
        return convert(
            "toy", weights=toy_weights_file, output=output, precision="int8", calibrate=pictures, calibration="minmax",
            samples=2,
        )  # fmt: skip


@pytest.fixture
def artifact(made: Conversion) -> Artifact:
    return made.artifact


def quantised_by_hand(weights: Path, pictures: Path, images: np.ndarray) -> np.ndarray:
    """Return the logits with weights and input of the inner convolution in steps of int8, in float64 otherwise.

    This is the definition: symmetric, a scale for each channel of the weights, one for the activation, the largest
    magnitude over the calibration pictures divided by 127.
    """
    net = ToyNet(4).double().eval()
    net.load_state_dict(torch.load(weights))

    def stem(pixels: np.ndarray) -> torch.Tensor:
        return net.stem(torch.from_numpy(pixels).double())

    seen = [cv2.resize(cv2.imread(str(file)), (32, 32)) / 255 for file in sorted(pictures.iterdir())]
    with torch.no_grad():
        scale = max(float(stem(each.transpose(2, 0, 1)[None]).abs().max()) for each in seen) / 127
        values = torch.clamp(torch.round(stem(images) / scale), -127, 127) * scale
        weight = net.body.weight
        steps = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        weight.copy_(torch.round(weight / steps) * steps)
        return net.head(torch.relu(net.body(values)).mean((2, 3))).numpy()


def test_it_computes_what_int8_is_by_definition(artifact: Artifact, toy_weights_file: Path, pictures: Path) -> None:
    images = np.random.default_rng(5).random((3, 3, 32, 32), np.float32)
    exact = ToyNet(4).double().eval()
    exact.load_state_dict(torch.load(toy_weights_file))
    with torch.no_grad():
        truth = exact(torch.from_numpy(images).double())["logits"].numpy()
    defined = quantised_by_hand(toy_weights_file, pictures, images)
    found = open_session("torch", artifact.model).run({"images": images})["logits"]
    assert found.dtype == np.float32
    # float16 around int8 turns some roundings the other way: the two differ by less than int8 costs
    quantised = np.linalg.norm(defined - truth)
    assert np.linalg.norm(found - defined) < quantised
    assert np.linalg.norm(found - truth) < 2 * quantised


def test_the_graph_has_int8_weights_and_the_rest_in_float16(artifact: Artifact) -> None:
    model = onnx.load(artifact.model)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    whole = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8]
    assert any(len(tensor.dims) == 4 for tensor in whole)
    assert not any(tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1 for tensor in model.graph.initializer)
    edges = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert edges == {TensorProto.FLOAT}


def test_the_manifest_names_lists_and_hashes_the_calibration(artifact: Artifact, pictures: Path) -> None:
    manifest = artifact.manifest
    assert manifest["graph"]["precision"] == "int8"
    found = manifest["precision"]
    assert (found["asked"], found["nodes"]["int8"]) == ("int8", 1)
    assert found["arithmetic"]["int8"] > 0.5
    calibration = CalibrationSet.from_json(found["calibration"])
    assert calibration.origin == f"{COUNT} images from pictures"
    assert calibration.method == "minmax"
    hashes = [hashlib.sha256((pictures / name).read_bytes()).hexdigest() for name in calibration.names]
    assert list(calibration.sha256) == hashes
    assert len(hashes) == COUNT
    rewrites = [entry["name"] for entry in manifest["rewrites"] if entry["fired"]]
    assert rewrites[-2:] == ["graph.to-int8", "graph.to-fp16"]
    assert not [path.name for path in artifact.path.rglob(".*")]


def test_the_ladder_says_by_which_yardstick_it_is_proved(made: Conversion, toy: ToyPlugin) -> None:
    states = {rung.name: rung.status for rung in made.ladder.rungs}
    assert [states[name] for name in ("exported", "typed", "decoded", "ran", "pipeline")] == ["passed"] * 5
    assert "1 nodes in int8" in made.ladder["typed"].summary
    assert "rounded to int8 steps" in made.ladder["typed"].summary
    assert made.verdict.backend == "torch"
    assert validate(made.artifact.path).passed


@pytest.mark.parametrize(("place", "factor"), [("activation", 2.0), ("activation", 0.5), ("weights", 2.0)])
def test_a_scale_wrong_by_2_fails_the_proof(
    artifact: Artifact, toy: ToyPlugin, tmp_path: Path, place: str, factor: float
) -> None:
    model = onnx.load(artifact.model)
    scales = {tensor.name: tensor for tensor in model.graph.initializer if ".scale" in tensor.name}
    wanted = [tensor for tensor in scales.values() if bool(tensor.dims) is (place == "weights")]
    for number, node in enumerate(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[1] in [tensor.name for tensor in wanted]:
            value = numpy_helper.to_array(scales[node.input[1]]) * np.float16(factor)
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float16), f"wrong{number}"))
            node.input[1] = f"wrong{number}"
    onnx.save(model, tmp_path / "wrong.onnx")
    golden = GoldenSamples.load(artifact.path, spec_from_manifest(artifact.manifest))
    wrong = open_session("torch", tmp_path / "wrong.onnx")
    assert not prove_again(artifact, wrong, golden, backend="torch").passed


def test_onnx_runtime_on_the_cpu_is_no_judge(artifact: Artifact, toy: ToyPlugin) -> None:
    with pytest.raises(EnvironmentProblem, match="is int8, and on the CPU, ONNX Runtime computes"):
        open_artifact(artifact, "onnxruntime", unproved=True)


def test_without_a_folder_the_samples_of_the_proof_calibrate(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = convert("toy", weights=toy_weights_file, precision="int8")
    assert done.artifact.path.name == "toy-toy1-32-int8"
    calibration = CalibrationSet.from_json(done.artifact.manifest["precision"]["calibration"])
    assert calibration.origin == "8 samples of the adapter, seed 0"
    assert len(set(calibration.sha256)) == 8


def folder_of(kind: str, folder: Path, pictures: Path) -> Path:
    folder.mkdir()
    if kind != "empty":
        for number in range(3 if kind == "few" else COUNT):
            shutil.copy(pictures / f"{number}.png", folder)
    if kind == "broken":
        (folder / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [("empty", "no image"), ("few", "few has 3 images; int8 needs 8"), ("broken", "4.png")],
)
def test_a_calibration_set_that_will_not_do_is_refused_before_the_work(
    toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, pictures: Path, kind: str, message: str
) -> None:
    folder = folder_of(kind, tmp_path / kind, pictures)
    steps: list[str] = []
    with pytest.raises(InputError, match=message) as caught:
        convert(
            "toy", weights=toy_weights_file, output=tmp_path / "toy", precision="int8", calibrate=folder,
            progress=lambda step, *_: steps.append(step),
        )  # fmt: skip
    assert caught.value.hint
    assert not any("float64" in step for step in steps)
    assert [path.name for path in tmp_path.iterdir()] == [kind], "nothing is left behind"


def test_too_few_samples_name_the_remedy(toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The proof has 2 samples; int8 needs 8") as caught:
        convert("toy", weights=toy_weights_file, output=tmp_path / "toy", precision="int8", samples=2)
    assert "--calibrate DIR" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibrate": "here"}, "Inputs for calibration are for int8"),
        ({"precision": "fp16", "calibration": "minmax"}, "Inputs for calibration are for int8"),
        ({"precision": "int8", "calibration": "minmx"}, "calibration cannot be 'minmx'"),
    ],
)
def test_settings_that_contradict_are_refused(toy: ToyPlugin, settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message) as caught:
        convert("toy", weights="nowhere.pth", **settings)
    assert caught.value.hint


def test_keeping_what_would_be_int8_is_no_int8_artifact(
    artifact: Artifact, toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, pictures: Path
) -> None:
    kept = [node.name for node in onnx.load(artifact.model).graph.node if node.op_type == "Conv"]
    (tmp_path / "kept.txt").write_text("\n".join(kept))
    with pytest.raises(ConversionError, match="Nothing of the model can become int8") as caught:
        convert(
            "toy", weights=toy_weights_file, output=tmp_path / "toy", precision="int8", calibrate=pictures, samples=1,
            keep_fp32=tmp_path / "kept.txt",
        )  # fmt: skip
    assert "--precision fp16" in caught.value.hint


def test_engines_are_built_of_int8_and_of_float32_artifacts(
    artifact: Artifact, toy_artifact: Artifact, toy: ToyPlugin, tmp_path: Path, pictures: Path
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    own = Artifact.open(shutil.copytree(artifact.path, tmp_path / "own"))
    wide = Artifact.open(shutil.copytree(toy_artifact.path, tmp_path / "wide"))
    for path, given in ((own.path, {}), (wide.path, {"precision": "int8", "calibrate": pictures})):
        built = build_engine(path, "tensorrt-rtx", targets=["sm86"], **given)
        states = {rung.name: rung.status for rung in built.ladder.rungs}
        assert [states[name] for name in ("exported", "typed", "decoded", "accepted", "understood", "built")] == (
            ["passed"] * 6
        )
        description = json.loads((built.folder / "engine.json").read_text())
        assert description["precision"] == "int8"
        assert ("calibration" in description) is bool(given)
        kinds = {kind for layer in description["layers"] for kind in layer["outputs"]}
        assert "INT8" in kinds
        assert not list(built.folder.glob(".*"))
    with pytest.raises(SettingError, match="int8 needs inputs for calibration") as caught:
        build_engine(wide.path, "tensorrt-rtx", precision="int8")
    assert "--calibrate" in caught.value.hint
    with pytest.raises(SettingError, match="is int8, and an engine in fp16 was asked for"):
        build_engine(own.path, "tensorrt-rtx", precision="fp16")
    with pytest.raises(SettingError, match="for int8 engines of float32 artifacts"):
        build_engine(own.path, "tensorrt-rtx", calibrate=pictures)
