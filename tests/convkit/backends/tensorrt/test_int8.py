"""Graphs quantised by convkit through NVIDIA's genuine parser and builder, in every type around the int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.quantisable import feeds, products, residual_network

from convkit.backends.tensorrt import Build, Task, audit, find_flavour, run_tasks, understand
from convkit.backends.tensorrt._reference import OnnxReference
from convkit.graph import apply_rewrite, in_phases
from convkit.graph.precision import quantize
from convkit.model import Target
from convkit.plugins import manager

pytest.importorskip("tensorrt_rtx_bindings")
SHAPES = {"residual": (2, 3, 16, 24), "products": (4, 16)}
KINDS = {"fp16": "HALF", "bf16": "BF16", "fp32": "FLOAT"}


def prepared(model: onnx.ModelProto, shape: tuple[int, ...], low: str) -> onnx.ModelProto:
    """Return a model quantised, and then changed as for an engine of TensorRT-RTX."""
    model, _ = quantize(model, feeds(3, *shape), low=low)
    target = Target("tensorrt-rtx", precision=low)
    for _, rewrite in in_phases(manager().gather("convkit_graph_rewrites", adapter="", target=target)):
        if rewrite.phase == "target":
            model, _ = apply_rewrite(model, rewrite)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.slow
def test_int8_graphs_are_built_understood_and_audited(tmp_path: Path) -> None:
    """Of residual blocks, a Concat, a transposed convolution and products of matrices, with any batch and size."""
    models, tasks = {}, []
    for low in KINDS:
        for name, make in (("residual", residual_network), ("products", products)):
            model = prepared(make(), SHAPES[name], low)
            models[name, low] = model
            onnx.save(model, tmp_path / f"{name}-{low}.onnx")
            shape = SHAPES[name]
            ranges = {"x": ((1, *shape[1:]), shape, (8, *shape[1:]))}
            tasks.append(Task(tmp_path / f"{name}-{low}.onnx", read=True, build=Build(("sm86", "sm120"), ranges)))
    for (key, model), outcome in zip(models.items(), run_tasks(find_flavour("tensorrt-rtx"), tasks), strict=True):
        name, low = key
        assert outcome.accepted, (key, outcome.errors, outcome.problem)
        assert outcome.plan, (key, outcome.targets)
        assert outcome.network is not None
        kinds = [outcome.network.tensors[layer.outputs[0]].dtype for layer in outcome.network.layers]
        assert "INT8" in kinds
        assert KINDS[low] in kinds
        found = audit(outcome.network, model)
        assert (found is None) == (low == "fp32")
        assert found is None or found.silent == (), (key, found.silent)
        understood = understand(outcome.network, model, feeds(1, *SHAPES[name]))
        assert understood.passed, (key, understood.parting, understood.not_replayed)


def test_no_cast_parts_quantisation_from_what_tensorrt_computes_in_float32() -> None:
    """It builds no transposed convolution in bfloat16: this one dequantises to float32."""
    model = prepared(residual_network(), SHAPES["residual"], "bf16")
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    makers = {name: each for each in model.graph.node for name in each.output}
    (up,) = (each for each in model.graph.node if each.name == "up")
    for name in up.input[:2]:
        assert makers[name].op_type == "DequantizeLinear"
        assert types[name] == onnx.TensorProto.FLOAT


def test_weights_of_another_scale_are_not_understood(tmp_path: Path) -> None:
    """The comparison sees a scale of one channel that is wrong by a factor of 2."""
    model = prepared(residual_network(), SHAPES["residual"], "fp16")
    onnx.save(model, tmp_path / "model.onnx")
    (outcome,) = run_tasks(find_flavour("tensorrt-rtx"), [Task(tmp_path / "model.onnx", read=True)])
    assert outcome.network is not None
    spoilt = onnx.ModelProto()
    spoilt.CopyFrom(model)
    (tensor,) = (each for each in spoilt.graph.initializer if each.name.startswith("wb2.scale"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] *= np.float16(2)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    assert not understand(outcome.network, spoilt, feeds(1, *SHAPES["residual"])).passed


@pytest.mark.parametrize(("places", "steps", "passes"), [(4, 1, True), (1, 2, False), (5, 1, False)])
def test_what_lies_between_two_integers_may_round_either_way(
    places: int, steps: int, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that rounds a hundredth of the values otherwise, with all that follows from it."""
    graph = onnx.parser.parse_model("""
        <ir_version: 9, opset_import: ["": 20]>
        quantised (float[1, 400] x) => (float[1, 400] y) <float scale = {0.5}, int8 zero = {0}>
        { q = QuantizeLinear(x, scale, zero)  d = DequantizeLinear(q, scale, zero)  y = Mul(d, d) }
    """)
    onnx.save(graph, tmp_path / "model.onnx")
    (outcome,) = run_tasks(find_flavour("tensorrt-rtx"), [Task(tmp_path / "model.onnx", read=True)])
    assert outcome.network is not None, outcome.errors

    def run(self: OnnxReference, inputs: Any, extra: Any = (), *, by_evaluator: bool = False) -> Any:
        integers = np.rint(inputs["x"] / np.float32(0.5)).astype(np.int8)
        integers[0, :places] += np.int8(steps)
        floats = integers * np.float32(0.5)
        found = {"y": floats * floats, "q": integers, "d": floats}
        return {name: found[name] for name in ("y", *extra)}

    monkeypatch.setattr(OnnxReference, "run", run)
    values = np.random.default_rng(0).uniform(-20, 20, (1, 400)).astype(np.float32)
    found = understand(outcome.network, graph, [{"x": values}])
    assert found.passed is passes
    assert passes or (found.parting and found.parting.operator == "QuantizeLinear")
