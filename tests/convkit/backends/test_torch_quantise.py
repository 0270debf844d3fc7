"""Quantisation in the torch backend: against its definition in float64, and against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.graphs import node, run_model

from convkit.backends import open_session
from convkit.errors import EnvironmentProblem

KINDS = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int16": TensorProto.INT16}
FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def model_of(
    op: str, inputs: dict[str, int], output: int, constants: dict[str, np.ndarray], opset: int = 21, **attributes: Any
) -> onnx.ModelProto:
    """Return a model of one operator; what is no constant is an input of any shape."""
    names = [*inputs, *constants]
    graph = helper.make_graph(
        [node(op, names, ["y"], name="it", **attributes)], op,
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(model: onnx.ModelProto, folder: Path, **feeds: np.ndarray) -> np.ndarray:
    onnx.save(model, folder / "model.onnx")
    return open_session("torch", folder / "model.onnx").run(feeds)["y"]


def along(values: np.ndarray, axis: int, dims: int) -> np.ndarray:
    shape = [1] * dims
    shape[axis] = -1
    return values if values.ndim == 0 else values.reshape(shape)


CASES = [(kind, place, zero) for kind in KINDS for place in ("tensor", 1, -3) for zero in (0, 7)]


@pytest.mark.parametrize(("kind", "place", "zero"), CASES)
def test_whole_numbers_are_those_of_the_definition_in_float64(kind, place, zero, tmp_path):
    """Scales that are powers of two make every quotient exact, ties among them; values leave the range both ways."""
    axis = 1 if place == "tensor" else place
    info, generator = np.iinfo(kind), np.random.default_rng(0)
    shape = (2, 3, 5, 7)
    powers = generator.integers(-6, 3, () if place == "tensor" else (shape[axis],))
    scale = np.exp2(powers, dtype=np.float32)
    zeros = np.full(scale.shape, zero, kind)
    halves = generator.integers(2 * int(info.min) - 80, 2 * int(info.max) + 80, shape) / 2
    x = (halves * along(scale, axis, 4)).astype(np.float32)
    rounded = np.rint(x.astype(np.float64) / along(scale.astype(np.float64), axis, 4)) + zero
    expected = np.clip(rounded, info.min, info.max).astype(kind)
    model = model_of("QuantizeLinear", {"x": TensorProto.FLOAT}, KINDS[kind], {"s": scale, "z": zeros}, axis=axis)
    np.testing.assert_array_equal(run(model, tmp_path, x=x), expected)
    back = model_of("DequantizeLinear", {"q": KINDS[kind]}, TensorProto.FLOAT, {"s": scale, "z": zeros}, axis=axis)
    exact = (expected.astype(np.float64) - zero) * along(scale.astype(np.float64), axis, 4)
    np.testing.assert_array_equal(run(back, tmp_path, q=expected), exact.astype(np.float32))


def test_any_scale_rounds_as_in_float64_but_for_ties(tmp_path):
    generator = np.random.default_rng(1)
    x = (generator.standard_normal((64, 1000)) * 3).astype(np.float32)
    scale = np.float32(0.0237)
    model = model_of("QuantizeLinear", {"x": TensorProto.FLOAT}, TensorProto.INT8, {"s": scale, "z": np.int8(0)})
    found = run(model, tmp_path, x=x)
    exact = x.astype(np.float64) / np.float64(scale)
    tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-4
    assert tie.mean() < 1e-3
    np.testing.assert_array_equal(found[~tie], np.clip(np.rint(exact), -128, 127).astype(np.int8)[~tie])
    np.testing.assert_array_equal(found, run_model(model, x=x)["y"])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_16_bit_values_are_divided_and_multiplied_in_float32(kind, tmp_path):
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, kind, kind))
    wide = np.random.default_rng(2).standard_normal((50, 50)).astype(np.float32)
    x, scale = wide.astype(dtype), np.asarray(0.0113, dtype)
    constants = {"s": scale, "z": np.int8(0)}
    cast = helper.make_node("Cast", ["wide"], ["x"], to=FLOATS[kind])
    model = model_of("QuantizeLinear", {"x": FLOATS[kind]}, TensorProto.INT8, constants)
    model.graph.node.insert(0, cast)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("wide", TensorProto.FLOAT, None))
    expected = np.rint(x.astype(np.float32) / scale.astype(np.float32)).clip(-128, 127).astype(np.int8)
    np.testing.assert_array_equal(run(model, tmp_path, wide=wide), expected)
    back = model_of("DequantizeLinear", {"q": TensorProto.INT8}, FLOATS[kind], constants)
    exact = (expected.astype(np.float32) * scale.astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(run(back, tmp_path, q=expected).astype(np.float32), exact.astype(np.float32))


def test_weights_that_are_constants_are_those_of_onnxruntime(tmp_path):
    generator = np.random.default_rng(3)
    constants = {
        "q": generator.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "s": generator.random(4).astype(np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        [node("DequantizeLinear", ["q", "s"], ["w"], axis=0), node("Conv", ["x", "w"], ["y"])], "weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    x = generator.standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model, tmp_path, x=x), run_model(model, x=x)["y"], rtol=1e-5, atol=1e-5)


def test_without_a_zero_point_it_is_uint8_as_in_onnxruntime(tmp_path):
    x = np.float32([-1, 0, 0.5, 1.5, 300])
    model = model_of("QuantizeLinear", {"x": TensorProto.FLOAT}, TensorProto.UINT8, {"s": np.float32(1)}, opset=19)
    np.testing.assert_array_equal(run(model, tmp_path, x=x), run_model(model, x=x)["y"])


def test_a_scale_a_block_is_refused(tmp_path):
    constants = {"s": np.ones((2, 2), np.float32), "z": np.zeros((2, 2), np.int8)}
    model = model_of("QuantizeLinear", {"x": TensorProto.FLOAT}, TensorProto.INT8, constants, axis=1, block_size=4)
    with pytest.raises(EnvironmentProblem, match="it has a scale a block"):
        run(model, tmp_path, x=np.ones((2, 8), np.float32))


@pytest.mark.parametrize(("scales", "axis"), [([0.25], None), ([0.5, 0.125, 2.0], 1)])
def test_fake_quantisation_rounds_to_steps_and_stays_in_float32(scales, axis, tmp_path):
    """The yardstick of int8: steps of the scale, ties to even, 127 steps at most either way."""
    x = (np.random.default_rng(0).integers(-600, 600, (2, 3, 4, 5)) / 8).astype(np.float32)
    attributes: dict[str, Any] = {"scales": scales} | ({"axis": axis} if axis is not None else {})
    model = model_of("FakeQuantize", {"x": TensorProto.FLOAT}, TensorProto.FLOAT, {}, domain="convkit", **attributes)
    model.opset_import.add(domain="convkit", version=1)
    steps = np.array(scales, np.float64).reshape((1, -1, 1, 1) if axis else ())
    expected = np.clip(np.rint(x / steps), -127, 127) * steps
    found = run(model, tmp_path, x=x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
