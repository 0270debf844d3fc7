"""Calibration inputs: which files, prepared how, and what is recorded of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from support.graphs import make_model, node
from support.plugins import registered
from support.quantisable import weights
from support.toy import ToyPlugin

from convkit import Dim, ModelSpec, TensorSpec
from convkit.conversion import MIN_CALIBRATION, CalibrationFiles, CalibrationSet, InputRange, quantize_with
from convkit.errors import ArtifactError, InputError

SIZE = 32


@pytest.fixture(autouse=True)
def plugin():
    with registered(ToyPlugin()):
        yield


def spec(batch: int = 1) -> ModelSpec:
    return ModelSpec(
        variant="toy",
        dims=(Dim("batch", batch, batch, 4), Dim.fixed("height", SIZE), Dim.fixed("width", SIZE)),
        inputs=(TensorSpec("images", ("batch", 3, "height", "width")),),
        outputs=(TensorSpec("y", ("batch", 4, "height", "width")),),
        preprocess={"kind": "toy.resize", "height": SIZE, "width": SIZE, "scale": 1.0},
    )


def images(folder: Path, count: int, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        pixels = generator.integers(0, 256, (40, 50, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.png"), pixels)
    return folder


def network() -> onnx.ModelProto:
    nodes = [node("Conv", ["images", "w0"], ["a0"], name="first"), node("Conv", ["a0", "w1"], ["a1"], name="inner"),
             node("Conv", ["a1", "w2"], ["y"], name="last")]  # fmt: skip
    constants = {"w0": weights(4, 3, 1, 1), "w1": weights(4, 4, 1, 1), "w2": weights(4, 4, 1, 1, seed=1)}
    shape = ["batch", 3, SIZE, SIZE]
    return make_model(nodes, {"images": shape}, {"y": ["batch", 4, SIZE, SIZE]}, constants)


def test_files_are_prepared_by_the_adapter_and_recorded(tmp_path):
    folder = images(tmp_path / "set", 10)
    steps: list[tuple[str, int, int]] = []
    model, records, found = quantize_with(
        network(), spec(), folder, method="minmax", low="fp32", progress=lambda *step: steps.append(step)
    )
    assert [record.name for record in records] == ["graph.to-int8"]
    assert any(each.op_type == "QuantizeLinear" for each in model.graph.node)
    assert found.method == "minmax"
    assert found.count == 10
    assert found.names == tuple(f"{number:03}.png" for number in range(10))
    contents = [(folder / name).read_bytes() for name in found.names]
    assert found.sha256 == tuple(hashlib.sha256(content).hexdigest() for content in contents)
    prepared = [
        cv2.resize(cv2.imread(str(folder / name)), (SIZE, SIZE)).astype(np.float32) / 255 for name in found.names
    ]
    low, high = float(np.min(prepared)), float(np.max(prepared))
    assert found.inputs["images"].dtype == "float32"
    assert (found.inputs["images"].low, found.inputs["images"].high) == pytest.approx((low, high), abs=1e-6)
    assert [step[1:] for step in steps] == [(number, 10) for number in range(10)]
    again = CalibrationSet.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found


def test_the_graph_depends_on_the_files(tmp_path):
    one, other = images(tmp_path / "a", 8), images(tmp_path / "b", 8)
    for file in other.iterdir():
        cv2.imwrite(str(file), cv2.imread(str(file)) // 4)
    results = [quantize_with(network(), spec(), folder, method="minmax")[0] for folder in (one, one, other)]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_of_many_files_some_are_chosen_evenly(tmp_path):
    files = CalibrationFiles(spec(), images(tmp_path / "set", 20), count=10)
    assert [file.name for file in files.files] == [f"{number:03}.png" for number in range(0, 20, 2)]
    assert len(files) == 10


def test_a_model_of_a_fixed_batch_gets_batches_of_its_size(tmp_path):
    files = CalibrationFiles(spec(batch=4), images(tmp_path / "set", 8))
    shapes = [feed["images"].shape for feed in files]
    assert shapes == [(4, 3, SIZE, SIZE)] * 8
    assert sum(1 for _ in files) == 8, "it can be read again"


def test_too_few_inputs_are_refused(tmp_path):
    for count, words in ((0, "holds no images"), (1, "has 1 image; int8 needs 8"), (7, "has 7 images; int8 needs 8")):
        folder = images(tmp_path / f"set{count}", count)
        with pytest.raises(InputError, match=words):
            CalibrationFiles(spec(), folder)
    with pytest.raises(InputError, match="There is no folder"):
        CalibrationFiles(spec(), tmp_path / "nowhere")


def test_copies_of_one_input_count_once(tmp_path):
    folder = images(tmp_path / "set", MIN_CALIBRATION)
    (folder / "000.png").write_bytes((folder / "001.png").read_bytes())
    with pytest.raises(InputError, match="has 7 different of 8 images"):
        CalibrationFiles(spec(), folder)


def test_a_broken_input_is_named_before_any_work_is_done(tmp_path):
    folder = images(tmp_path / "set", 9)
    (folder / "008.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"008\.png"):
        quantize_with(network(), spec(), folder)


@pytest.mark.parametrize("spoil", [
    lambda data: data.pop("files"), lambda data: data.update(count=3), lambda data: data.update(inputs=[1]),
    lambda data: data["files"][0].pop("sha256"), lambda data: data["inputs"]["x"].update(low="much"),
])  # fmt: skip
def test_a_spoilt_record_is_refused(spoil):
    data = CalibrationSet("minmax", ("a",), ("0" * 64,), {"x": InputRange("float32", 0, 1)}).to_json()
    spoil(data)
    with pytest.raises(ArtifactError, match="record of the calibration"):
        CalibrationSet.from_json(data)
