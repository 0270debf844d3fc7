"""The trained digits network with its detections in the graph: deformable convolutions, a peak test and a top-K."""

from __future__ import annotations

import math
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from convkit import Artifact
from convkit.artifact import spec_from_manifest
from convkit.bisection import Limits, bisect_artifact, search_artifact
from convkit.proof import GoldenSamples

LIMIT = 0.008
"""How far scores may differ in bfloat16, where they differ by about 0.017 with nothing kept."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(digits_detections_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return Artifact.open(shutil.copytree(digits_detections_artifact.path, tmp_path_factory.mktemp("digits") / "digits"))


def test_fp16_rounds_and_no_node_parts(digits):
    result = bisect_artifact(digits.path, ["onnxruntime", "torch:fp16"], samples=1, shares=3)
    assert result.float32_nodes == ()
    assert result.first_parting() is None
    assert result.decisions == (), "fed the values of float64, peaks and top-K are decided alike"
    by_type = {kind: [row for row in result.nodes if row.dtype == kind] for kind in ("float16", "float32")}
    assert len(by_type["float16"]) > 40
    assert 2**-13 < max(row.local[1].rel_l2 for row in by_type["float16"]) < 2**-9
    assert max(row.local[1].rel_l2 for row in by_type["float32"]) < 1e-5
    assert max(row.local[0].rel_l2 for row in result.nodes) < 1e-5
    deformed = [row for row in result.nodes if row.operator == "DeformConv"]
    assert [row.module for row in deformed] == ["deconv_layers.0", "deconv_layers.6", "deconv_layers.12"]


def test_the_reference_is_pytorch_in_float64_as_the_artifact_has_it(digits):
    """The float32 runner's accumulated error is the one that the golden outputs show."""
    spec = spec_from_manifest(digits.manifest)
    golden = GoldenSamples.load(digits.path, spec)
    sizes = tuple((dim.name, dim.opt) for dim in spec.dims if dim.name != "batch")
    result = bisect_artifact(digits.path, ["torch:fp32"], samples=1, shares=0)
    stored = golden.outputs[sizes][0]
    found = {row.tensor: row for row in result.nodes}
    for name in result.outputs:
        assert found[name].scale == pytest.approx(np.abs(stored[name]).max(), rel=1e-5)


def test_a_weight_beyond_fp16_is_found_with_what_reads_it(digits, tmp_path):
    """The batch normalisation behind a convolution is folded: scaled weights make activations that overflow."""
    model = onnx.load(str(digits.model))
    conv = next(node for node in model.graph.node if node.name == "layer3.0.conv1/Conv")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in conv.input[1:]:
        tensors[name].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensors[name]) * np.float32(1e5), name))
    path = tmp_path / "loud.onnx"
    onnx.save(model, str(path))
    result = bisect_artifact(digits.path, [f"torch:{path}"], samples=1, shares=0)
    first = result.first_parting()
    assert first
    assert first.node == conv.name
    assert first.local[1].rel_l2 == pytest.approx(1e5, rel=1e-2)
    assert math.isfinite(first.accumulated[1].rel_l2)
    assert list(result.keep_reasons()) == [conv.name]


def test_the_search_keeps_few_nodes_where_bf16_will_not_do(digits):
    found = search_artifact(digits.path, "bf16", limits=Limits(score=LIMIT), trials=12)
    low, accepted = (
        next(trial for trial in found.search.trials if trial.kept == kept)
        for kept in (frozenset(), frozenset(found.search.kept))
    )
    assert not low.accepted
    assert _score(low.figures) > LIMIT
    assert accepted.accepted
    assert _score(accepted.figures) <= LIMIT
    assert 0 < len(found.search.kept) < len(found.bisection.nodes) / 2
    assert len(found.search.trials) <= 12
    assert set(found.reasons) == set(found.search.kept)


def _score(figures: str) -> float:
    return float(figures.split("scores ")[1].split(" off")[0])
