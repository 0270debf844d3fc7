"""ONNX's own node tests through the rewrites that serve every graph: none changes a result by more than rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import cycle

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.standard import NodeTest, difference, some_node_tests

from convkit.backends.tensorrt import OnnxReference
from convkit.errors import ConversionError
from convkit.graph import DropIdentity, FoldConstants, Rewrite, apply_rewrite
from convkit.graph.precision import To16Bit

pytestmark = pytest.mark.slow
HALVES = {"fp16": (np.dtype(np.float16), 2.0**-10), "bf16": (np.dtype(ml_dtypes.bfloat16), 2.0**-7)}
BY_DEFINITION = {
    f"test_attention_4d_with_past_and_present_qk_matmul_bias_{rank}_mask_causal": "it masks by the type's lowest number"
    for rank in ("3d", "4d")
}
"""Tests whose result depends on the type, with the reason."""

Feeds = Mapping[str, np.ndarray]


def with_weights(test: NodeTest, kept: int) -> tuple[onnx.ModelProto, Feeds]:
    """Return the model with all inputs but the first ``kept`` as constants, and what remains to be fed."""
    model, feeds = onnx.ModelProto.FromString(test.content), test.data[0][0]
    names = list(feeds)
    remaining = [value for value in model.graph.input if value.name in names[:kept]]
    del model.graph.input[:]
    model.graph.input.extend(remaining)
    model.graph.initializer.extend(numpy_helper.from_array(feeds[name], name) for name in names[kept:])
    return model, {name: feeds[name] for name in names[:kept]}


def rounded(feeds: Feeds, dtype: np.dtype) -> Feeds:
    with np.errstate(over="ignore"):
        return {
            name: value.astype(dtype).astype(np.float32) if value.dtype == np.float32 else value
            for name, value in feeds.items()
        }


def changes(
    models: Iterator[tuple[str, onnx.ModelProto, Feeds, Rewrite, float]],
) -> tuple[Counter[str], dict[str, str]]:
    """Return how often which rewrite was compared, and what it changed, by test."""
    compared: Counter[str] = Counter()
    found: dict[str, str] = {}
    for name, model, feeds, rewrite, step in models:
        result, record = apply_rewrite(model, rewrite)
        if not record.fired:
            continue
        try:
            before = OnnxReference(model).run(feeds)
        except ConversionError:
            continue  # nothing here runs the test itself
        try:
            after = OnnxReference(result).run(feeds)
        except ConversionError as error:
            found[f"{rewrite.name} {name}"] = error.message
            continue
        compared[rewrite.name] += 1
        for output, value in before.items():
            scale = np.abs(value[np.isfinite(value)]).max(initial=0) if step and value.dtype.kind == "f" else 0
            text = difference(value, after[output], max(1e-5, 8 * step), max(1e-7, 8 * step * float(scale)))
            if text:
                found[f"{rewrite.name} {name}"] = text
    return compared, found


def test_tidying_changes_no_result():
    """By turns with everything constant and with one input."""

    def models() -> Iterator[tuple[str, onnx.ModelProto, Feeds, Rewrite, float]]:
        for test, kept in zip(some_node_tests(), cycle((0, 1))):
            if not test.random:
                model, feeds = with_weights(test, kept)
                yield test.name, model, feeds, FoldConstants(), 0.0
                if any(node.op_type == "Identity" for node in model.graph.node):
                    yield test.name, model, feeds, DropIdentity(), 0.0

    compared, found = changes(models())
    assert found == {}
    assert compared["graph.fold-constants"] >= 400
    assert compared["graph.drop-identity"] >= 50


def test_typing_changes_no_result_by_more_than_rounding():
    """By turns in both precisions, with inputs that 16 bits can hold."""

    def models() -> Iterator[tuple[str, onnx.ModelProto, Feeds, Rewrite, float]]:
        for test, precision in zip(some_node_tests(), cycle(HALVES)):
            if not test.random and test.name not in BY_DEFINITION:
                dtype, step = HALVES[precision]
                model, feeds = with_weights(test, max(1, len(test.data[0][0]) - 1))
                yield test.name, model, rounded(feeds, dtype), To16Bit(precision), step

    compared, found = changes(models())
    assert found == {}
    assert compared["graph.to-fp16"] >= 250
    assert compared["graph.to-bf16"] >= 250
