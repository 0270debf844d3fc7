"""The graph of every adapter in every precision, through NVIDIA's genuine parser and builder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.checkpoints import make_checkpoint
from support.every_case import EVERY_CASE
from support.plans import same_plan

from convkit import Artifact, convert
from convkit.artifact import spec_from_manifest
from convkit.backends.tensorrt import check_model
from convkit.conversion import build_engine
from convkit.model import resolve
from convkit.proof import GoldenSamples, shape_cases

pytest.importorskip("tensorrt_rtx_bindings")
NAME = "tensorrt-rtx"
PRECISIONS = ("fp32", "fp16", "bf16")
TARGETS = {precision: ["sm86,sm120" if EVERY_CASE or precision == "fp16" else "sm86"] for precision in PRECISIONS}
"""Each model is built for two GPUs in one precision: an engine for more of them is the engine for each."""
PROVED = ("exported", "accepted", "understood", "built")
WAYS = [("gather", "fp32"), ("creator", "fp16"), *([("gather", "fp16"), ("creator", "fp32")] if EVERY_CASE else [])]
"""How a deformable convolution is written, besides by GridSample. The digits are built by gathering in 16 bits."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def plain_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A narrow network without deformable convolutions; the one with them is the fixture narrow_artifact."""
    folder = tmp_path_factory.mktemp("centernet")
    weights = make_checkpoint(folder / "res_18.pth", "res_18", width=0.125)
    shape = ["height=64", "width=96"]
    return convert("centernet", weights=weights, output=folder / "res_18", shape=shape, samples=2).artifact


# A resdcn_18 has all layers of a res_18, and deformable convolutions.
@pytest.fixture(params=["toy", "blobs", "pair", "embedding", "resdcn_18", *(["res_18"] if EVERY_CASE else [])])
def artifact(request: pytest.FixtureRequest, tmp_path: Path) -> Artifact:
    """A copy of the artifact of each adapter, with its plugin installed."""
    name = request.param
    fixtures = {"blobs": "blob_artifact", "res_18": "plain_artifact", "resdcn_18": "narrow_artifact"}
    source: Artifact = request.getfixturevalue(fixtures.get(name, f"{name}_artifact"))
    if not name.startswith("res"):
        request.getfixturevalue(name)
    return Artifact.open(shutil.copytree(source.path, tmp_path / name))


def check(artifact: Artifact, **settings: Any) -> bytes:
    """Build an engine, check every rung that this machine can pass, and return the plan."""
    precision = settings.get("precision", "fp32")
    built = build_engine(artifact.path, NAME, targets=TARGETS[precision], **settings)
    proved = (*PROVED, "typed") if precision != "fp32" else PROVED
    assert {name: built.ladder[name].status for name in proved} == dict.fromkeys(proved, "passed"), built.ladder
    assert {built.ladder[name].status for name in ("ran", "pipeline")} == {"pending"}
    return built.engine.file.read_bytes()


def test_it_is_built_and_understood_in_every_precision(artifact: Artifact) -> None:
    plans = {precision: check(artifact, precision=precision) for precision in PRECISIONS}
    deformable = any(node.op_type == "DeformConv" for node in onnx.load(artifact.model).graph.node)
    if not deformable or EVERY_CASE:
        assert same_plan(check(artifact), plans["fp32"])
    for way, precision in WAYS if deformable else ():
        check(artifact, precision=precision, options={"dcn": way})


def test_it_is_built_and_understood_in_int8(artifact: Artifact, tmp_path: Path) -> None:
    """ONNX Runtime quantises the graph that a float32 engine was built from: symmetric, per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    built = build_engine(artifact.path, NAME, targets=["sm86"])
    source = built.folder / "model.onnx"
    source = source if source.is_file() else artifact.model
    spec = spec_from_manifest(artifact.manifest)
    golden = GoldenSamples.load(artifact.path, spec)
    cases = shape_cases(spec.dims)

    class Samples(CalibrationDataReader):
        feeds: Iterator[Mapping[str, np.ndarray]] = iter([golden.samples.feed(case) for case in cases])

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.feeds, None)

    result = tmp_path / "int8.onnx"
    quantize_static(
        source, result, Samples(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8, op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )  # fmt: skip
    model = onnx.load(result)
    assert any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    corners = [{dim.name: getattr(dim, corner) for dim in spec.dims} for corner in ("min", "opt", "max")]
    shapes = [
        f"{tensor.name}={':'.join('x'.join(map(str, resolve(tensor.shape, sizes))) for sizes in corners)}"
        for tensor in spec.inputs
    ]
    ladder = check_model(result, model, targets=TARGETS["fp16"], shapes=shapes)
    states = {name: ladder[name].status for name in PROVED[1:]}
    assert states == dict.fromkeys(PROVED[1:], "passed"), str(ladder.to_json())
