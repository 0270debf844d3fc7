"""Which nodes the kernels of a GPU take over, and that the result stays: PyTorch stands in for the kernels on the CPU.

With a GPU, the last test runs the kernels themselves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from support.gpu import missing_gpu
from support.graphs import make_model, node
from torch import Tensor
from torch.nn import functional as F

from convkit.backends import Engine
from convkit.backends.torch import Torch, _fused, _gpu
from convkit.backends.torch._kernels import FirstLayer
from convkit.backends.torch._session import TorchSession
from convkit.backends.torch._siblings import joined_siblings

RNG = np.random.default_rng(0)


def values(*shape: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal(shape) / 4).astype(np.float16)


def graph(
    nodes: list[Any], channels: int, size: int = 16, *, out: int | None = None, **constants: Any
) -> onnx.ModelProto:
    shapes = {"x": [2, channels, size, size]}
    return make_model(nodes, shapes, {"y": [2, out, None, None]}, constants, dtype=TensorProto.FLOAT16)


CONV = {"w": values(16, 8, 3, 3), "b": values(16)}
CASES: dict[str, tuple[onnx.ModelProto, list[str]]] = {
    "first layer and pool": (
        graph(
            [
                node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], pads=[3, 3, 3, 3]),
                node("Relu", ["c"], ["r"]),
                node("MaxPool", ["r"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            ],
            3,
            34,
            w=values(32, 3, 7, 7),
            b=values(32),
        ),
        ["first layer"],
    ),
    "first layer": (
        graph([node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["y"])], 4, w=values(16, 4, 5, 5)),
        ["first layer"],
    ),
    "another pool behind it": (
        graph(
            [
                node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], pads=[3, 3, 3, 3]),
                node("Relu", ["c"], ["r"]),
                node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
            ],
            3,
            34,
            w=values(32, 3, 7, 7),
            b=values(32),
        ),
        ["first layer", "pool"],
    ),
    "bias": (graph([node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])], 8, **CONV), ["bias"]),
    "filters that are padded": (
        graph([node("Conv", ["x", "w", "b"], ["y"])], 8, w=values(27, 8, 3, 3), b=values(27)),
        ["bias"],
    ),
    "few filters": (
        graph([node("Conv", ["x", "w", "b"], ["y"])], 8, w=values(2, 8, 1, 1), b=values(2)),
        ["few filters"],
    ),
    "a product of matrices": (
        graph([node("Conv", ["x", "w", "b"], ["y"])], 8, w=values(24, 8, 1, 1), b=values(24)),
        [],
    ),
    "a product of matrices with filters that are padded": (
        graph([node("Conv", ["x", "w", "b"], ["y"])], 8, w=values(17, 8, 1, 1), b=values(17)),
        [],
    ),
    "a pointwise layer with a stride": (
        graph([node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2])], 8, w=values(24, 8, 1, 1), b=values(24)),
        ["bias"],
    ),
    "in groups": (graph([node("Conv", ["x", "w", "b"], ["y"], group=2)], 8, w=values(6, 4, 1, 1), b=values(6)), []),
    "in groups of whole pieces": (
        graph([node("Conv", ["x", "w", "b"], ["y"], group=2)], 8, w=values(16, 4, 1, 1), b=values(16)),
        ["bias"],
    ),
    "without a bias": (graph([node("Conv", ["x", "w"], ["y"])], 8, w=values(16, 8, 3, 3)), []),
    "transposed": (
        graph(
            [node("ConvTranspose", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])],
            8,
            w=values(8, 16, 4, 4),
            b=values(16),
        ),
        ["bias"],
    ),
    "transposed, ReLU": (
        graph(
            [node("ConvTranspose", ["x", "w", "b"], ["c"], strides=[2, 2]), node("Relu", ["c"], ["y"])],
            8,
            w=values(8, 16, 4, 4),
            b=values(16),
        ),
        ["bias relu"],
    ),
    "transposed to channels that no piece holds": (
        graph([node("ConvTranspose", ["x", "w", "b"], ["y"])], 8, w=values(8, 6, 4, 4), b=values(6)),
        [],
    ),
    "transposed, a filter for each channel": (
        graph(
            [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=8)],
            8,
            w=values(8, 1, 4, 4),
        ),
        ["depthwise transposed"],
    ),
    "transposed, a filter for each channel, bias and ReLU": (
        graph(
            [
                node("ConvTranspose", ["x", "w", "b"], ["c"], strides=[2, 1], pads=[1, 0, 1, 0], group=8),
                node("Relu", ["c"], ["y"]),
            ],
            8,
            w=values(8, 1, 4, 3),
            b=values(8),
        ),
        ["depthwise transposed relu"],
    ),
    "transposed in groups of two filters": (
        graph([node("ConvTranspose", ["x", "w"], ["y"], group=8)], 8, w=values(8, 2, 4, 4)),
        [],
    ),
    "transposed with more at the end": (
        graph(
            [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_padding=[1, 1], group=8)],
            8,
            w=values(8, 1, 4, 4),
        ),
        [],
    ),
    "pool": (
        graph([node("MaxPool", ["x"], ["y"], kernel_shape=[2, 3], pads=[1, 1, 1, 1], strides=[1, 2])], 8),
        ["pool"],
    ),
    "pool that rounds up": (
        graph([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], 8),
        [],
    ),
    "pool with unequal padding": (
        graph([node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], pads=[0, 0, 1, 1])], 8),
        [],
    ),
    "two convolutions and their sum": (
        graph(
            [
                node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
                node("Conv", ["x", "v", "a"], ["d"], strides=[2, 2]),
                node("Add", ["c", "d"], ["s"]),
                node("Relu", ["s"], ["y"]),
            ],
            8,
            **CONV,
            v=values(16, 8, 1, 1),
            a=values(16),
        ),
        ["add relu"],
    ),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were called; the CPU counts as a GPU, and PyTorch computes what they would."""
    made: list[str] = []

    def first_layer(layer: FirstLayer, x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
        made.append("first layer")
        result = F.conv2d(x, packed, bias, layer.stride, layer.padding).relu()
        return F.max_pool2d(result, 3, 2, 1) if layer.pool else result

    def add_bias(x: Tensor, bias: Tensor, *, relu: bool) -> Tensor | None:
        if x.shape[1] % 8:
            return None
        made.append("bias relu" if relu else "bias")
        x += bias.view(-1, 1, 1)
        return x.relu_() if relu else x

    def few_filters(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        made.append("few filters")
        return F.conv2d(x, weight, bias)

    def depthwise_transposed(x: Tensor, weight: Tensor, bias: Any, *settings: Any, relu: bool) -> Tensor:
        made.append("depthwise transposed relu" if relu else "depthwise transposed")
        filters = weight.permute(2, 0, 1).unsqueeze(1)
        result = F.conv_transpose2d(x, filters, bias, *settings, groups=x.shape[1])
        return result.relu() if relu else result

    def max_pool(x: Tensor, *settings: Any) -> Tensor:
        made.append("pool")
        return F.max_pool2d(x, *settings)

    def conv_add_relu(x: Any, weight: Any, z: Any, alpha: float, bias: Any, *settings: Any) -> Any:
        made.append("add relu")
        return (F.conv2d(x, weight, bias, *settings) + alpha * z).relu()

    def pitch(x: Tensor) -> int:
        assert x.is_contiguous(memory_format=torch.channels_last)
        return x.shape[1]

    monkeypatch.setattr(_fused, "_KIND", "cpu")
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", conv_add_relu)
    monkeypatch.setattr(_gpu, "has_kernels", lambda device: True)
    monkeypatch.setattr(_gpu, "pack_first_layer", lambda layer, weight: weight)
    monkeypatch.setattr(_gpu, "pixel_pitch", pitch)
    for function in (first_layer, add_bias, depthwise_transposed, few_filters, max_pool):
        monkeypatch.setattr(_gpu, function.__name__, function)
    return made


def fed(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float16)}


def right(model: onnx.ModelProto, folder: Path) -> np.ndarray[Any, Any]:
    """Return the output as the single operators compute it, in float32."""
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return TorchSession(folder / "model.onnx", "cpu").run(fed(model))["y"]


@pytest.mark.parametrize(("model", "expected"), CASES.values(), ids=CASES)
def test_kernels_take_over_and_the_result_stays(
    tmp_path: Path, model: onnx.ModelProto, expected: list[str], request: pytest.FixtureRequest
) -> None:
    reference = right(model, tmp_path)
    calls = request.getfixturevalue("calls")
    session = TorchSession(tmp_path / "model.onnx", "cpu", channels_last=True)
    session.program._widens = False
    found = session.run(fed(model))["y"]
    assert calls == expected
    np.testing.assert_allclose(found.astype(np.float32), reference.astype(np.float32), rtol=5e-3, atol=5e-3)


@pytest.mark.skipif(bool(missing_gpu()), reason=missing_gpu() or "there is a GPU")
@pytest.mark.parametrize("model", [model for model, _ in CASES.values()], ids=CASES)
def test_on_a_gpu(tmp_path: Path, model: onnx.ModelProto) -> None:
    reference = right(model, tmp_path)
    session = Torch().open(Engine("torch", tmp_path / "model.onnx"), device="cuda")
    found = session.run(fed(model))["y"]
    np.testing.assert_allclose(found.astype(np.float32), reference.astype(np.float32), rtol=5e-3, atol=5e-3)


def heads(*, bias: bool = True, **more: Any) -> onnx.ModelProto:
    """Return three layers with ReLU that read one tensor, and what is read of each."""
    nodes, constants = [], {}
    for name, filters in (("hm", 5), ("wh", 3), ("reg", 4)):
        constants |= {f"{name}.w": values(filters, 8, 3, 3).astype(np.float32)}
        constants |= {f"{name}.b": values(filters).astype(np.float32)} if bias or name == "wh" else {}
        given = [key for key in (f"{name}.w", f"{name}.b") if key in constants]
        settings = more if name == "reg" else {}
        nodes += [node("Conv", ["x", *given], [f"{name}.c"], name=name, pads=[1, 1, 1, 1], **settings)]
        nodes += [node("Relu", [f"{name}.c"], [name])]
    outputs: dict[str, list[Any]] = {name: [2, None, None, None] for name in ("hm", "wh", "reg")}
    return make_model(nodes, {"x": [2, 8, 6, 7]}, outputs, constants)


@pytest.mark.parametrize(("model", "convolutions"), [
    (heads(), ["hm+wh+reg"]), (heads(bias=False), ["hm+wh+reg"]), (heads(dilations=[2, 2]), ["hm+wh", "reg"]),
])  # fmt: skip
def test_layers_that_read_one_tensor_become_one(
    tmp_path: Path, model: onnx.ModelProto, convolutions: list[str]
) -> None:
    joined = joined_siblings(model)
    onnx.checker.check_model(joined, full_check=True)
    assert [each.name for each in joined.graph.node if each.op_type == "Conv"] == convolutions
    x = {"x": np.random.default_rng(1).standard_normal((2, 8, 6, 7)).astype(np.float32)}
    results = []
    for number, each in enumerate((model, joined)):
        (tmp_path / f"{number}.onnx").write_bytes(each.SerializeToString())
        results.append(TorchSession(tmp_path / f"{number}.onnx", "cpu").run(x))
    for name, value in results[0].items():
        np.testing.assert_allclose(results[1][name], value, rtol=1e-5, atol=1e-6)


def test_what_reads_a_layer_before_its_activation_keeps_it(tmp_path: Path) -> None:
    model = heads()
    model.graph.output.append(onnx.helper.make_tensor_value_info("hm.c", TensorProto.FLOAT, [2, 5, None, None]))
    joined = joined_siblings(model)
    assert [each.name for each in joined.graph.node if each.op_type == "Conv"] == ["hm", "wh+reg"]
