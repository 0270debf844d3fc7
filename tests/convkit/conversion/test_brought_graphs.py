"""Graphs that a user brings: made by other tools, proved in place of the exported one, and compared at their edges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact, Conversion, convert, load
from convkit.conversion import build_engine
from convkit.errors import ArtifactError, ConversionError, ConvkitError, ProofFailedError, SettingError


def half_by_onnxruntime(source: Path, target: Path) -> None:
    """Write the float16 graph that ONNX Runtime's converter makes, with float32 at its edges."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def int8_by_onnxruntime(source: Path, target: Path) -> None:
    """Write the symmetric QDQ graph that ONNX Runtime's quantiser makes of inputs like those of the proof."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from support.toy import Resize

    from convkit import synthetic_scenes

    resize = Resize({"width": 32, "height": 32, "scale": 1.0})

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.scenes = iter(synthetic_scenes(8, seed=1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            scene = next(self.scenes, None)
            return None if scene is None else {"images": resize(scene).tensors["images"][None]}

    quantize_static(
        str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(toy_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("brought")
    found = {name: folder / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
    plain = onnx.load(toy_artifact.model)
    del plain.metadata_props[:]
    onnx.save(plain, found["fp32"])
    half_by_onnxruntime(found["fp32"], found["fp16"])
    int8_by_onnxruntime(found["fp32"], found["int8"])
    return found


@pytest.fixture(scope="module")
def made(
    files: dict[str, Path], toy_weights_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Conversion]:
    folder = tmp_path_factory.mktemp("made")
    with registered(ToyPlugin()):
        return {
            name: convert("toy", weights=toy_weights_file, output=folder / name, graph=file)
            for name, file in files.items()
        }


@pytest.mark.parametrize(
    ("name", "backend", "exported", "typed"),
    [("fp32", "onnxruntime", "passed", "not applicable"), ("fp16", "torch", "not applicable", "passed"),
     ("int8", "torch", "not applicable", "passed")],
)  # fmt: skip
def test_it_is_proved_by_the_rule_of_the_precision_that_it_has(
    made: dict[str, Conversion], files: dict[str, Path], toy: ToyPlugin, name: str, backend: str, exported: str,
    typed: str,
) -> None:  # fmt: skip
    done = made[name]
    manifest = done.artifact.manifest
    assert manifest["graph"]["precision"] == name
    assert manifest["graph"]["brought"] == {
        "file": f"{name}.onnx", "sha256": hashlib.sha256(files[name].read_bytes()).hexdigest()
    }  # fmt: skip
    assert manifest["rewrites"] == []
    assert done.verdict.backend == backend
    states = {rung.name: rung.status for rung in done.ladder.rungs}
    assert (states["exported"], states["typed"]) == (exported, typed)
    assert [states[rung] for rung in ("decoded", "ran", "pipeline")] == ["passed"] * 3
    own, theirs = onnx.load(done.artifact.model), onnx.load(files[name])
    assert sorted(map(str, own.graph.node)) == sorted(map(str, theirs.graph.node)), "the graph is the user's"
    assert list(own.graph.initializer) == list(theirs.graph.initializer)
    with load(done.artifact.path) as predictor:
        assert predictor(np.zeros((40, 50, 3), np.uint8)).probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_an_engine_is_built_of_it(made: dict[str, Conversion], toy: ToyPlugin) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    built = build_engine(made["fp16"].artifact.path, "tensorrt-rtx", targets=["sm86"])
    assert built.ladder["built"].status == "passed"
    assert json.loads((built.folder / "engine.json").read_text())["precision"] == "fp16"


def scaled(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), tensor.name))

    return change


@pytest.mark.parametrize(("name", "factor"), [("fp32", 1.001), ("fp16", 1.1)])
def test_one_that_computes_something_else_fails(
    files: dict[str, Path], toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path, name: str, factor: float
) -> None:
    model = onnx.load(files[name])
    scaled(name, factor)(model)
    onnx.save(model, tmp_path / "wrong.onnx")
    with pytest.raises(ProofFailedError):
        convert("toy", weights=toy_weights_file, output=tmp_path / "toy", graph=tmp_path / "wrong.onnx", samples=2)
    ladder = json.loads((tmp_path / "toy.rejected" / "proof" / "verdict.json").read_text())["ladder"]
    assert ladder["exported" if name == "fp32" else "typed"]["status"] == "failed"


def renamed(model: onnx.ModelProto) -> None:
    old, model.graph.output[0].name = model.graph.output[0].name, "scores"
    for node in model.graph.node:
        node.output[:] = ["scores" if name == old else name for name in node.output]


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def half_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    (cast,) = [node for node in model.graph.node if "images" in node.input]
    model.graph.node.remove(cast)
    for node in model.graph.node:
        node.input[:] = ["images" if name == cast.output[0] else name for name in node.input]


@pytest.mark.parametrize(
    ("change", "settings", "kind", "message"),
    [
        (renamed, {}, ArtifactError, "The outputs of graph.onnx are scores, and those of the model logits"),
        (fixed_batch, {}, ArtifactError, "is 1 x 3 x 32 x 32, and the model's is 4 x 3 x 32 x 32 where batch is 4"),
        (half_input, {}, ArtifactError, "The input 'images' of graph.onnx is float16, and the model's is float32"),
        (None, {"precision": "bf16"}, SettingError, "graph.onnx is fp16, and bf16 was asked for"),
        (None, {"precision": "fp32"}, SettingError, "graph.onnx is fp16, and fp32 was asked for"),
        (None, {"precision": "auto"}, SettingError, "precision auto changes how convkit types"),
        (None, {"keep_fp32": "kept.txt"}, SettingError, "keep_fp32 changes how convkit types"),
        (b"no graph", {}, ArtifactError, "graph.onnx is not a whole ONNX file"),
        (b"", {}, ArtifactError, "contains no ONNX graph"),
    ],
)
def test_one_that_is_not_the_models_is_refused_before_the_work(
    files: dict[str, Path], toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path,
    change: Callable[[onnx.ModelProto], None] | bytes | None, settings: dict[str, str], kind: type[ConvkitError],
    message: str,
) -> None:  # fmt: skip
    file = tmp_path / "graph.onnx"
    if isinstance(change, bytes):
        file.write_bytes(change)
    else:
        model = onnx.load(files["fp16"])
        if change:
            change(model)
        onnx.save(model, file)
    steps: list[str] = []
    with pytest.raises(kind, match=message) as caught:
        convert(
            "toy", weights=toy_weights_file, output=tmp_path / "toy", graph=file,
            progress=lambda step, *_: steps.append(step), **settings,
        )  # fmt: skip
    assert caught.value.hint
    assert not any("float64" in step for step in steps)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


def test_float16_that_was_asked_for_and_is_hardly_there_is_an_error(
    files: dict[str, Path], toy: ToyPlugin, toy_weights_file: Path, tmp_path: Path
) -> None:
    """A graph with one operator in float16: nobody meant that by fp16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(files["fp32"])
    blocked = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    mixed = convert_float_to_float16(model, keep_io_types=True, node_block_list=blocked)
    del mixed.graph.value_info[:]  # the converter leaves types there that hold no longer
    onnx.save(mixed, tmp_path / "graph.onnx")
    with pytest.raises(ConversionError, match="fp16 was asked for, and 100% of the arithmetic stayed float32"):
        convert(
            "toy",
            weights=toy_weights_file,
            output=tmp_path / "toy",
            graph=tmp_path / "graph.onnx",
            precision="fp16",
            samples=1,
        )
