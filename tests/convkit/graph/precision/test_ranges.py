"""The values of tensors on samples, and what follows from them for 16 bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support.graphs import make_model, node, run_model

from convkit.errors import ConversionError, EnvironmentProblem, InputError
from convkit.graph import PRECISION_KEY, RewriteRecord, apply_rewrite, metadata_of
from convkit.graph.precision import Range, To16Bit, ranges


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def network() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Shape", ["b"], ["s"], name="shape"),
        node("Reshape", ["b", "s"], ["y"], name="reshape"),
    ]
    return make_model(nodes, {"x": ["n", 3, "h", "w_"]}, {"y": ["n", 4, None, None]}, {"w": weights(4, 3, 3, 3)})


def test_ranges_are_those_of_the_values():
    """Against NumPy on what ONNX Runtime computes of every sample, of several sizes."""
    model, generator = network(), np.random.default_rng(0)
    feeds = [{"x": generator.standard_normal((1, 3, 6, size)).astype(np.float32)} for size in (5, 400, 9)]
    found = ranges(model, iter(feeds))
    assert set(found) == {"x", "a", "b", "y"}, "tensors of integers and constants have none"
    values: dict[str, list[np.ndarray]] = {name: [] for name in found}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    for name in "ab":
        exposed.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    for feed in feeds:
        for name, value in (feed | run_model(exposed, **feed)).items():
            values[name].append(value.reshape(-1))
    for name, parts in values.items():
        everything = np.concatenate(parts)
        nonzero = np.abs(everything[everything != 0])
        np.testing.assert_allclose(
            (found[name].low, found[name].high, found[name].smallest),
            (everything.min(), everything.max(), nonzero.min()), rtol=1e-3, atol=1e-6,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, -0.0], Range(0, 0, np.inf)),
        ([-3.0, 0.0, 1e-42, 2.0], Range(-3, 2, float(np.float32(1e-42)))),
        ([np.inf, 1.0, -np.inf, -2.0], Range(-2, 1, 1)),
        ([np.inf, -np.inf], Range(0, 0, np.inf)),
        (np.concatenate([np.full(200_000, -1), [5, 0, 1e-5], np.ones(200_000)]), Range(-1, 5, 1e-5)),
    ],
)
def test_signs_zeros_subnormal_values_and_infinities(values, expected):
    model = make_model([node("Identity", ["x"], ["y"], name="copy")], {"x": [None]}, {"y": [None]})
    found = ranges(model, [{"x": np.asarray(values, np.float32)}])["x"]
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.smallest == pytest.approx(expected.smallest, rel=1e-6)


def test_what_is_no_number_is_named_with_the_sample():
    model = make_model([node("Log", ["x"], ["y"], name="log")], {"x": [2]}, {"y": [2]})
    with pytest.raises(ConversionError, match=r"'y' has values that are no numbers .* on sample 1"):
        ranges(model, [{"x": np.ones(2, np.float32)}, {"x": np.float32([1, -1])}])


def test_no_samples_and_wrong_ones_are_errors():
    with pytest.raises(InputError, match="no samples"):
        ranges(network(), [])
    with pytest.raises(ConversionError, match=r"on x \[1, 2, 4, 4\]"):
        ranges(network(), [{"x": weights(1, 2, 4, 4)}])
    broken = make_model([node("Relu", ["x"], ["y"], name="relu")], {"x": [2]}, {"y": [2]})
    broken.graph.node[0].domain = "nowhere"
    broken.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    with pytest.raises(EnvironmentProblem, match="cannot run the graph"):
        ranges(broken, [{"x": np.ones(2, np.float32)}])


def typed(
    model: onnx.ModelProto, found: dict[str, Range], precision: str = "fp16"
) -> tuple[dict[str, str], RewriteRecord]:
    result, record = apply_rewrite(model, To16Bit(precision, ranges=found))
    onnx.checker.check_model(result, full_check=True)
    again, second = apply_rewrite(result, To16Bit(precision, ranges=found))
    assert again is result
    assert second.fired == 0
    return {each.name: text for each in result.graph.node if (text := metadata_of(each, PRECISION_KEY))}, record


def scaled(factor: float) -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["a"], name="first"),
        node("Mul", ["a", "factor"], ["big"], name="grow"),
        node("Relu", ["big"], ["r"], name="relu"),
        node("Mul", ["r", "back"], ["b"], name="shrink"),
        node("Conv", ["b", "v"], ["y"], name="last"),
    ]
    constants = {
        "w": weights(4, 3, 1, 1), "factor": np.float32(factor), "back": np.float32(1 / factor),
        "v": weights(2, 4, 1, 1),
    }  # fmt: skip
    return make_model(nodes, {"x": [1, 3, 8, 8]}, {"y": [1, 2, 8, 8]}, constants)


def test_what_leaves_the_range_on_the_samples_stays_float32_by_name():
    """Without the samples, float16 becomes infinite there, and the result no number."""
    model, feed = scaled(6e4), {"x": weights(1, 3, 8, 8)}
    kept, record = typed(model, ranges(model, [feed]))
    assert set(kept) == {"grow", "relu", "shrink"}
    assert kept["grow"].startswith("big reaches ")
    assert kept["grow"].endswith(" on the samples, beyond 65504")
    assert record.fired == 2
    assert typed(model, ranges(model, [feed]), "bf16")[0] == {}, "bfloat16 has the range of float32"
    assert set(typed(model, {})[0]) == {"shrink"}, "a constant of 1/60000 is subnormal"


def test_values_that_are_all_subnormal_stay_float32():
    model = scaled(2.0**-13)
    kept, _ = typed(model, {"big": Range(-1e-5, 2e-5, 1e-9)})
    assert kept["grow"] == "big reaches 2e-05 at most on the samples, which is subnormal in float16"
    assert set(kept) == {"grow", "relu"}
    assert typed(model, {"big": Range(0, 0, np.inf)})[0] == {}, "zeros are zeros in any type"


def test_a_divisor_that_becomes_0_stays_float32():
    nodes = [
        node("Relu", ["x"], ["a"], name="relu"),
        node("Add", ["a", "half"], ["b"], name="add"),
        node("Div", ["a", "b"], ["y"], name="divide"),
    ]
    model = make_model(nodes, {"x": [4]}, {"y": [4]}, {"half": np.float32(0.5)})
    kept, _ = typed(model, {"b": Range(0, 1, 2.0**-25)})
    reason = "b has 2.98e-08 on the samples: Div 'divide' would divide by 0"
    assert kept == {"add": reason, "divide": reason}
    assert typed(model, {"b": Range(0, 1, 2.0**-24)})[0] == {}
