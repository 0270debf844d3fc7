"""What an ONNX model means is asked of what can say it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.graphs import make_model, node

from convkit.backends.tensorrt._judge import judge_tensor
from convkit.backends.tensorrt._reference import OnnxReference
from convkit.errors import ConversionError

X = np.linspace(-2, 3, 24, dtype=np.float32).reshape(2, 3, 4)


def one(operator: str, kind: int = TensorProto.FLOAT, opset: int = 20, **attributes: object) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, X.shape) for name in "xy"]
    graph = helper.make_graph([node(operator, ["x"], ["y"], **attributes)], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_onnx_runtime_comes_first():
    reference = OnnxReference(one("Relu"))
    np.testing.assert_array_equal(reference.run({"x": X})["y"], np.maximum(X, 0))
    assert reference.name.startswith("ONNX Runtime")


def test_values_inside_of_the_graph():
    model = make_model([node("Abs", ["x"], ["a"]), node("Sqrt", ["a"], ["y"])], {"x": (3,)}, {"y": (3,)})
    found = OnnxReference(model).run({"x": np.array([-4, 9, 1], np.float32)}, ["a"])
    assert (found["a"].tolist(), found["y"].tolist()) == ([4, 9, 1], [2, 3, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_bfloat16_of_an_old_opset_is_computed_in_float32_as_that_opset_means_it(axis):
    reference = OnnxReference(one("Softmax", TensorProto.BFLOAT16, opset=11, axis=axis))
    for _ in range(2):
        found = reference.run({"x": X.astype(ml_dtypes.bfloat16)})["y"]
        flat = X.astype(ml_dtypes.bfloat16).astype(np.float64).reshape(int(np.prod(X.shape[:axis])), -1)
        powers = np.exp(flat - flat.max(1, keepdims=True))
        np.testing.assert_allclose(found.astype(np.float64).reshape(flat.shape), powers / powers.sum(1, keepdims=True),
                                   rtol=2**-8)  # fmt: skip
        assert found.dtype == ml_dtypes.bfloat16
        assert reference.name.endswith("in float32")


def test_the_reference_evaluator_takes_what_onnx_runtime_lacks():
    reference = OnnxReference(one("Celu", TensorProto.DOUBLE, alpha=2.0))
    found = reference.run({"x": X.astype(np.float64)})["y"]
    np.testing.assert_allclose(found, np.where(X > 0, X, 2 * np.expm1(X.astype(np.float64) / 2)), rtol=1e-12)
    assert "reference evaluator" in reference.name


def test_the_reference_evaluator_is_not_asked_for_old_opsets():
    with pytest.raises(ConversionError, match="opset 12 is older") as caught:
        OnnxReference(one("Celu", TensorProto.DOUBLE, opset=12)).run({"x": X.astype(np.float64)})
    assert caught.value.hint


def test_a_few_quantised_numbers_may_be_off_by_one():
    numbers = np.arange(200).astype(np.int8)
    off = numbers.copy()
    off[7] += 1
    assert judge_tensor(numbers, off, off, "INT8").passed
    off[9] += 2
    assert not judge_tensor(numbers, off, off, "INT8").passed
    assert not judge_tensor(numbers, numbers + np.int8(1), numbers + np.int8(1), "INT8").passed
