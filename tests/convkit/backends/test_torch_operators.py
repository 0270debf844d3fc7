"""Every operator of the torch backend against ONNX Runtime on graphs of one operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import node, run_model

from convkit.backends import open_session
from convkit.backends.torch import convkit_torch_operators

INT = np.int64


def case(op: str, *shapes: Any, opset: int = 20, **attributes: Any) -> Any:
    """One operator; an argument that is an array is a constant, None an input that is left out, a list a shape."""
    label = " ".join([op, *(f"{k}={v}" for k, v in attributes.items()), *(f"{s}" for s in shapes)])
    return pytest.param(op, shapes, attributes, opset, id=label.replace("\n", "")[:90])


def ints(*values: int) -> np.ndarray:
    return np.array(values, INT)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


X = [2, 6, 7, 5]
CASES = [
    *(case(op, X) for op in (
        "Abs", "Atan", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg", "Reciprocal",
        "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tan", "Tanh", "Elu", "Celu", "Selu",
        "LeakyRelu", "HardSigmoid", "ThresholdedRelu", "Gelu", "Dropout", "GlobalAveragePool", "GlobalMaxPool",
        "Softmax", "LogSoftmax", "Flatten", "Transpose", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin",
        "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp",
    )),
    *(case(op, X, [6, 1, 5]) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *(case(op, [3, 4], [3, 4], [4]) for op in ("Max", "Min", "Sum", "Mean")),
    case("Pow", [3, 4], floats(2.0)),
    case("Mod", [3, 4], [3, 4], fmod=1),
    case("Sqrt", np.abs(np.arange(12, dtype=np.float32)).reshape(3, 4)),
    case("Log", 1 + np.arange(12, dtype=np.float32).reshape(3, 4)),
    case("Asin", np.linspace(-1, 1, 12, dtype=np.float32)),
    case("Acos", np.linspace(-1, 1, 12, dtype=np.float32)),
    case("Clip", X, np.float32(-0.5), np.float32(0.7)),
    case("Clip", X, None, np.float32(0.7)),
    case("Clip", X, np.float32(-0.5)),
    case("Clip", X),
    case("Clip", X, min=-0.2, max=0.4, opset=10),
    case("PRelu", X, [6, 1, 1]),
    case("Elu", X, alpha=0.3),
    case("Selu", X, alpha=1.2, gamma=0.8),
    case("Celu", X, alpha=2.0),
    case("LeakyRelu", X, alpha=0.3),
    case("HardSigmoid", X, alpha=0.1, beta=0.3),
    case("Gelu", X, approximate="tanh"),
    case("Softmax", X, axis=1),
    case("Softmax", X, axis=1, opset=11),
    case("Softmax", X, axis=-2, opset=11),
    case("LogSoftmax", X, axis=2),
    *(case(op, X, ints(1, -1), keepdims=0) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2")),
    *(case(op, X, axes=[2, 3], opset=11) for op in ("ReduceMean", "ReduceMin", "ReduceSum")),
    case("ReduceSum", X, ints(), noop_with_empty_axes=1),
    case("CumSum", [3, 5], np.array(1, INT)),
    case("CumSum", [3, 5], np.array(-2, INT), exclusive=1, reverse=1),
    case("MatMul", [2, 3, 4], [2, 4, 5]),
    case("MatMul", [3, 4], [4]),
    case("Gemm", [3, 4], [4, 5], [5]),
    case("Gemm", [4, 3], [5, 4], transA=1, transB=1, alpha=0.5),
    case("Gemm", [3, 4], [5, 4], [1, 5], transB=1, alpha=0.5, beta=2.0),
    case("Einsum", [2, 3, 4], [2, 4, 5], equation="bij,bjk->bik"),
    case("Reshape", X, ints(0, -1, 5)),
    case("Squeeze", [1, 3, 1, 4], ints(0, -2)),
    case("Squeeze", [1, 3, 1, 4]),
    case("Squeeze", [1, 3, 1, 4], axes=[2], opset=11),
    case("Unsqueeze", [3, 4], ints(-1, 0)),
    case("Unsqueeze", [3, 4], axes=[1], opset=11),
    case("Flatten", X, axis=2),
    case("Flatten", X, axis=0),
    case("Transpose", X, perm=[0, 2, 3, 1]),
    case("Concat", [2, 3], [2, 4], axis=1),
    case("Slice", X, ints(1, -4), ints(5, 100), ints(1, 2)),
    case("Slice", X, ints(5, 3), ints(-100, 0), ints(1, 3), ints(-2, -1)),
    case("Slice", X, ints(0), ints(6), ints(1), ints(3)),
    case("Slice", X, ints(1, 1)[:1], ints(2)),
    case("Slice", X, starts=[1, 0], ends=[4, 3], axes=[1, 3], opset=9),
    case("Gather", X, np.array([[0, 5], [2, -1]], INT), axis=1),
    case("Gather", X, np.array(-2, INT), axis=2),
    case("GatherElements", [3, 4], np.array([[0, -1], [2, 1], [3, 3]], INT), axis=1),
    case("GatherND", [3, 4, 2], np.array([[0, 1], [2, -1]], INT)),
    case("GatherND", [2, 4, 5, 3], np.arange(12, dtype=INT).reshape(2, 3, 2) % 4 - 1, batch_dims=1),
    case("GatherND", [2, 3, 4], np.array([[[1], [0], [3]], [[2], [-1], [0]]], INT), batch_dims=2),
    case("ReduceProd", [3, 4, 5], ints(0, 2), keepdims=0),
    case("ReduceProd", [3, 4, 5], ints(-1)),
    case("ReduceProd", [3, 4]),
    case("GridSample", X, [2, 3, 4, 2]),
    *(case("GridSample", X, [2, 3, 4, 2], mode=mode, padding_mode=padding, align_corners=align)
      for mode, padding, align in (("nearest", "border", 0), ("linear", "reflection", 1), ("cubic", "zeros", 1))),
    case("GridSample", X, [2, 3, 4, 2], mode="bilinear", opset=16),
    case("ScatterND", [4, 3], np.array([[1], [3]], INT), [2, 3]),
    case("Expand", [3, 1], ints(2, 1, 4)),
    case("Tile", [2, 3], ints(2, 2)),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 3, 0)),
    case("Pad", X, ints(0, 1, 0, 2, 0, 1, 0, 0), np.float32(1.5)),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 3, 1), mode="reflect"),
    case("Pad", X, ints(0, 0, 1, 2, 0, 0, 3, 1), mode="edge"),
    case("Pad", X, ints(1, 2, 2, 0), None, ints(-2, 3)),
    case("Pad", X, ints(0, 0, 1, -2, 0, 0, -1, 0)),
    case("Pad", X, mode="constant", pads=[0, 0, 1, 1, 0, 0, 0, 2], value=0.5, opset=10),
    case("DepthToSpace", [2, 12, 3, 4], blocksize=2),
    case("DepthToSpace", [2, 12, 3, 4], blocksize=2, mode="CRD"),
    case("SpaceToDepth", [2, 3, 4, 6], blocksize=2),
    case("Where", np.array([[True, False, True]]), [4, 3], [4, 1]),
    case("Conv", X, [4, 6, 3, 3], [4], pads=[1, 1, 1, 1]),
    case("Conv", X, [4, 6, 3, 2], strides=[2, 1], pads=[1, 0, 2, 1]),
    case("Conv", X, [6, 3, 3, 3], [6], group=2, dilations=[2, 1], pads=[2, 1, 2, 1]),
    case("Conv", X, [4, 6, 3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", X, [4, 6, 2, 2], auto_pad="SAME_LOWER"),
    case("Conv", [2, 3, 9], [4, 3, 3], [4], pads=[1, 1]),
    case("Conv", [1, 2, 5, 6, 7], [3, 2, 2, 3, 3], [3]),
    case("ConvTranspose", X, [6, 4, 4, 4], [4], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", X, [6, 2, 3, 3], group=2, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    case("ConvTranspose", X, [6, 4, 3, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    case("MaxPool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", X, kernel_shape=[3, 2], strides=[2, 1], pads=[0, 1, 2, 0]),
    case("MaxPool", X, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", X, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    case("MaxPool", [2, 3, 9], kernel_shape=[3]),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", X, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", X, kernel_shape=[3, 2], pads=[0, 1, 2, 0]),
    case("AveragePool", X, kernel_shape=[3, 2], pads=[0, 1, 2, 0], count_include_pad=1),
    case("BatchNormalization", X, [6], [6], [6], np.linspace(0.5, 2, 6, dtype=np.float32), epsilon=1e-3),
    case("InstanceNormalization", X, [6], [6], epsilon=1e-3),
    case("LayerNormalization", X, [5], [5]),
    case("LayerNormalization", X, [7, 5], axis=2, epsilon=1e-2),
    *(
        case("Resize", X, None, floats(1, 1, *scales), coordinate_transformation_mode=rule, nearest_mode=near)
        for scales in ((2, 2), (0.5, 1.7))
        for rule in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        if rule != "align_corners" or scales == (2, 2)
        for near in ("floor", "round_prefer_floor", "round_prefer_ceil", "ceil")
    ),
    *(
        case("Resize", X, None, None, ints(2, 6, *sizes), mode=mode, coordinate_transformation_mode=rule)
        for sizes in ((14, 10), (3, 9))
        for rule in ("half_pixel", "align_corners")
        for mode in ("nearest", "linear", "cubic")
    ),
    case("Resize", X, None, floats(1, 1, 1.3, 2.2), mode="linear"),
    case("Resize", X, None, None, ints(14, 10), mode="linear", axes=[2, 3]),
    case("Upsample", X, floats(1, 1, 2, 3), mode="nearest", opset=9),
]  # fmt: skip


def prepare(shapes: Any, seed: int) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the names of the inputs, random feeds, and constants."""
    rng = np.random.default_rng(seed)
    names, feeds, constants = [], {}, {}
    for index, given in enumerate(shapes):
        name = "" if given is None else f"v{index}"
        names.append(name)
        if isinstance(given, list):
            feeds[name] = rng.standard_normal(given).astype(np.float32)
        elif given is not None:
            constants[name] = np.asarray(given)
    return names, feeds, constants


def run_torch(model: Any, folder: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return open_session("torch", path).run(feeds)


def single(op: str, shapes: Any, attributes: Any, opset: int) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model of one node, whose result has any shape, and random inputs for it."""
    names, feeds, constants = prepare(shapes, len(op))
    graph = helper.make_graph(
        [node(op, names, ["y"], **attributes)],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return model, feeds


@pytest.mark.parametrize(("op", "shapes", "attributes", "opset"), CASES)
def test_an_operator_computes_what_onnx_runtime_computes(tmp_path, op, shapes, attributes, opset):
    model, feeds = single(op, shapes, attributes, opset)
    expected = run_model(model, **feeds)["y"]
    found = run_torch(model, tmp_path, feeds)["y"]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_every_operator_is_in_a_test():
    here = {op for op, *_ in (parameter.values for parameter in CASES)}
    graphs = "".join(Path(__file__).with_name(name).read_text() for name in ("test_torch.py", "test_torch_quantise.py"))
    missing = [name for _, name in convkit_torch_operators() if "+" not in name and name not in here]
    assert [name for name in missing if f'"{name}"' not in graphs] == []


@pytest.mark.parametrize("have", [3, 7, 14, 22])
def test_the_nearest_pixel_of_a_size_is_that_of_exact_fractions(tmp_path, have):
    """18 columns of 14: column 9 is 9 * 14 / 18 = 7 exactly, and the quotient by a rounded 18 / 14 is below 7."""
    sizes = range(1, 33)
    graph = helper.make_graph(
        [
            node(
                "Resize", ["x", "", "", f"s{size}"], [f"y{size}"], mode="nearest", nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            )
            for size in sizes
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [have])],
        [helper.make_tensor_value_info(f"y{size}", TensorProto.FLOAT, None) for size in sizes],
        [numpy_helper.from_array(ints(size), f"s{size}") for size in sizes],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    found = run_torch(model, tmp_path, {"x": np.arange(have, dtype=np.float32)})
    for size in sizes:
        assert found[f"y{size}"].tolist() == [i * have // size for i in range(size)]
