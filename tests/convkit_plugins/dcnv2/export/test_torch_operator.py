"""``DeformConv`` in the torch backend against ONNX Runtime's, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.graphs import make_model, node, run_model

from convkit.backends import open_session
from convkit.errors import EnvironmentProblem
from convkit_plugins.dcnv2 import op
from convkit_plugins.dcnv2.export import _torch_operator


def deform(kernel: tuple[int, int] = (3, 3), groups: int = 1, inputs: int = 5, **attributes: Any) -> onnx.ModelProto:
    names = ["x", "w", "offset", "bias", "mask"][:inputs]
    shapes: dict[str, list[Any]] = {name: [2, None, None, None] for name in names}
    shapes |= {"x": [2, 4, 9, 8], "w": [6, 4, *kernel], "bias": [6]}
    graph = helper.make_graph(
        [node("DeformConv", names, ["y"], kernel_shape=list(kernel), offset_group=groups, **attributes)],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6, None, None])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def feeds(kernel: tuple[int, int], groups: int, inputs: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    rng, taps = np.random.default_rng(0), groups * kernel[0] * kernel[1]
    values = {
        "x": rng.standard_normal((2, 4, 9, 8)),
        "w": rng.standard_normal((6, 4, *kernel)),
        "offset": rng.standard_normal((2, 2 * taps, *size)) * 2,
        "bias": rng.standard_normal(6),
        "mask": rng.random((2, taps, *size)),
    }
    return {name: value.astype(np.float32) for name, value in list(values.items())[:inputs]}


def open_model(model: onnx.ModelProto, folder: Path) -> Any:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return open_session("torch", folder / "model.onnx")


@pytest.mark.parametrize(
    ("kernel", "groups", "inputs", "attributes", "size"),
    [
        ((3, 3), 1, 5, {"pads": [1, 1, 1, 1]}, (9, 8)),
        ((3, 3), 2, 5, {"pads": [1, 0, 1, 0], "strides": [2, 1]}, (5, 6)),
        ((3, 2), 1, 5, {"pads": [2, 1, 2, 1], "dilations": [2, 1]}, (9, 9)),
        ((1, 1), 1, 4, {}, (9, 8)),
        ((3, 3), 1, 3, {}, (7, 6)),
    ],
)
def test_it_computes_what_onnx_runtime_computes(tmp_path, kernel, groups, inputs, attributes, size):
    model = deform(kernel, groups, inputs, **attributes)
    given = feeds(kernel, groups, inputs, size)
    expected = run_model(model, **given)["y"]
    np.testing.assert_allclose(open_model(model, tmp_path).run(given)["y"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "message"), [({"pads": [1, 1, 0, 1]}, r"\(1, 1\).*\(0, 1\)"), ({"group": 2}, "group=2")]
)
def test_settings_that_the_operator_lacks_are_refused(tmp_path, attributes, message):
    with pytest.raises(EnvironmentProblem, match=message):
        open_model(deform(**attributes), tmp_path)


def layer(*, cut: int = 18, other: bool = False, sigmoid: bool = True, relu: bool = True) -> onnx.ModelProto:
    """Return a DCN layer as it is exported: two slices of the raw tensor, sigmoid, convolution, activation."""
    rng = np.random.default_rng(3)
    constants = {
        "w": rng.standard_normal((6, 4, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(6).astype(np.float32),
        **{name: np.array([value]) for name, value in (("zero", 0), ("one", 1), ("cut", cut), ("end", 2**63 - 1))},
        "eighteen": np.array([18]),
    }
    nodes = [
        node("Slice", ["raw", "zero", "eighteen", "one", "one"], ["offset"]),
        node("Slice", ["more" if other else "raw", "cut", "end", "one", "one"], ["logits"]),
        node("Sigmoid" if sigmoid else "Identity", ["logits"], ["mask"]),
        node("DeformConv", ["x", "w", "offset", "b", "mask"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu" if relu else "Neg", ["c"], ["y"]),
    ]
    channels = cut + 9
    inputs: dict[str, list[Any]] = {"x": [2, 4, 9, 8], "raw": [2, channels, 9, 8]}
    return make_model(nodes, inputs | ({"more": [2, channels, 9, 8]} if other else {}), {"y": [2, 6, 9, 8]}, constants)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["DeformConv+Relu"]),
        ({"relu": False}, ["DeformConv"]),
        ({"other": True}, []),
        ({"cut": 20}, []),
        ({"sigmoid": False}, []),
    ],
    ids=["layer", "no-relu", "mask-of-another-tensor", "mask-from-elsewhere", "no-sigmoid"],
)
def test_the_layer_around_it_becomes_one_call(tmp_path, monkeypatch, settings, expected):
    calls: list[str] = []

    def dcnv2(*arguments: Any, relu: bool) -> torch.Tensor:
        calls.append("DeformConv+Relu" if relu else "DeformConv")
        return op.dcnv2(*arguments, relu=relu)

    monkeypatch.setattr(_torch_operator, "_FUSING_DEVICE", "cpu")
    monkeypatch.setattr(_torch_operator, "dcnv2", dcnv2)
    model, rng = layer(**settings), np.random.default_rng(0)
    given = {
        value.name: rng.standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
    }
    found = open_model(model, tmp_path).run(given)["y"]
    np.testing.assert_allclose(found, run_model(model, **given)["y"], rtol=1e-4, atol=1e-5)
    assert calls == expected
