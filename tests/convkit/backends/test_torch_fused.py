"""Which convolutions go into one call of cuDNN, and with which arguments; PyTorch's own operators stand in for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.graphs import make_model, node
from torch.nn.functional import conv2d

from convkit.backends.torch import _fused
from convkit.backends.torch._session import TorchSession


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the fused calls that were made; the CPU counts as a device with cuDNN."""
    made: list[str] = []

    def conv_relu(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        made.append("relu")
        return conv2d(x, weight, bias, stride, padding, dilation, groups).relu()

    def conv_add_relu(
        x: Any, weight: Any, z: Any, alpha: float, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Any:
        made.append("add relu")
        plain = conv2d(x, weight, bias, stride, padding, dilation, groups)
        assert z.shape == plain.shape
        return (plain + alpha * z).relu()

    monkeypatch.setattr(_fused, "_KIND", "cpu")
    monkeypatch.setattr(torch, "cudnn_convolution_relu", conv_relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", conv_add_relu)
    return made


def residual(*, other: list[int], first: bool, bias: bool = True, **conv: Any) -> onnx.ModelProto:
    """Return a convolution, plus another input on either side, through Relu."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((4, 4 // conv.get("group", 1), 3, 3)).astype(np.float32)}
    constants |= {"b": rng.standard_normal(4).astype(np.float32)} if bias else {}
    nodes = [
        node("Conv", ["x", *constants], ["c"], **conv),
        node("Add", ["c", "z"] if first else ["z", "c"], ["s"]),
        node("Relu", ["s"], ["y"]),
    ]
    return make_model(nodes, {"x": [2, 4, 9, 8], "z": other}, {"y": [2, 4, None, None]}, constants)


def plain(*, shared: bool = False, **conv: Any) -> onnx.ModelProto:
    weight = np.random.default_rng(1).standard_normal((4, 4, 3, 3)).astype(np.float32)
    nodes = [node("Conv", ["x", "w"], ["c"], **conv), node("Relu", ["c"], ["y"])]
    nodes += [node("Neg", ["c"], ["n"])] if shared else []
    outputs = {name: [2, 4, None, None] for name in ("y", *(["n"] if shared else []))}
    return make_model(nodes, {"x": [2, 4, 9, 8]}, outputs, {"w": weight})


CASES = [
    (plain(pads=[1, 1, 1, 1]), ["relu"]),
    (plain(strides=[2, 1], dilations=[1, 2], pads=[0, 2, 0, 2]), ["relu"]),
    (plain(pads=[0, 0, 1, 1]), []),
    (plain(auto_pad="SAME_UPPER"), []),
    (plain(shared=True), []),
    (residual(other=[2, 4, 9, 8], first=True, pads=[1, 1, 1, 1]), ["add relu"]),
    (residual(other=[2, 4, 9, 8], first=False, pads=[1, 1, 1, 1]), ["add relu"]),
    (residual(other=[2, 4, 5, 4], first=True, pads=[1, 1, 1, 1], strides=[2, 2], group=2), ["add relu"]),
    (residual(other=[2, 4, 1, 1], first=True, pads=[1, 1, 1, 1]), []),
    (residual(other=[2, 4, 9, 8], first=True, bias=False, pads=[1, 1, 1, 1]), []),
    (residual(other=[2, 4, 9, 8], first=True, pads=[1, 0, 1, 2]), []),
]


@pytest.mark.parametrize(("model", "expected"), CASES)
def test_fused_or_not_the_result_is_the_same(
    tmp_path: Path, calls: list[str], model: onnx.ModelProto, expected: Any
) -> None:
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    rng = np.random.default_rng(2)
    feeds = {
        value.name: rng.standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
    }
    exact = TorchSession(tmp_path / "model.onnx", "cpu").run(feeds)
    assert calls == [], "float32 is not fused"
    found = TorchSession(tmp_path / "model.onnx", "cpu", "bfloat16", channels_last=True).run(feeds)
    assert calls == expected
    for name, value in exact.items():
        np.testing.assert_allclose(found[name], value, rtol=0.05, atol=0.2)
