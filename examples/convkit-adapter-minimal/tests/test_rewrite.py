"""The rewrite fires on a spelled-out hard-swish, and only there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from convkit_adapter_minimal.rewrite import FuseHardSwish

from convkit.errors import RewriteError
from convkit.graph import apply_rewrite
from convkit.model import exactly

GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
g (float[batch, 4] x) => (float[batch, 4] y) <float three = {3}, float low = {0}, float high = {6}, float six = {6}> {
    shifted = Add (x, three)
    clipped = Clip (shifted, low, high)
    product = Mul (x, clipped)
    y = Div (product, six)
}
"""


def model_of(text: str) -> onnx.ModelProto:
    """Return a checked model with named nodes."""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = f"block/{node.op_type}"
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime computes."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


@pytest.mark.parametrize(
    ("old", "new"),
    [("", ""), ("Add (x, three)", "Add (three, x)"), ("Mul (x, clipped)", "Mul (clipped, x)")],
    ids=["as exported", "sum turned round", "product turned round"],
)
def test_one_node_computes_the_same(old: str, new: str) -> None:
    """Four nodes become one, which agrees with the definition in float64."""
    result, record = apply_rewrite(model_of(GRAPH.replace(old, new)), FuseHardSwish(), exactly(1))
    assert [(node.op_type, node.name) for node in result.graph.node] == [("HardSwish", "block/HardSwish")]
    assert record.removed == ["block/Add", "block/Clip", "block/Mul", "block/Div"]
    x = np.linspace(-5, 5, 44, dtype=np.float32).reshape(11, 4)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(run(result, x), exact * np.clip(exact + 3, 0, 6) / 6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("six = {6}", "six = {5}", "divides by 5.0, not by 6"),
        ("three = {3}", "three = {2}", "adds 2.0, not 3"),
        ("low = {0}", "low = {-1}", r"bounds \[-1.0, 6.0\], not \[0, 6\]"),
        ("Clip (shifted, low, high)", "Clip (shifted, low)", r"bounds \[0.0\], not"),
        ("Mul (x, clipped)", "Mul (clipped, clipped)", "does not clip the other factor"),
        ("Clip (shifted, low, high)", "Clip (x, low, high)", "does not clip the other factor"),
        ("y = Div (product, six)", "z = Div (product, six)\n y = Add (z, shifted)", "block/Add is used elsewhere"),
    ],
)
def test_near_miss_is_left_alone_and_says_why(old: str, new: str, reason: str) -> None:
    """What only looks alike stays, and the error tells what differs."""
    model = model_of(GRAPH.replace(old, new))
    with pytest.raises(RewriteError, match=reason):
        apply_rewrite(model, FuseHardSwish(), exactly(1))
    untouched, record = apply_rewrite(model, FuseHardSwish())
    assert record.fired == 0
    assert untouched is model


def test_other_divisions_are_no_candidates() -> None:
    """A division that has nothing to do with it is not even a near miss."""
    _, record = apply_rewrite(model_of(GRAPH.replace("Div (product, six)", "Div (x, six)")), FuseHardSwish())
    assert (record.fired, record.near_misses) == (0, [])
