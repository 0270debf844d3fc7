"""Random ONNX graphs: a few operators in a row and side by side, with settings that people and exporters rarely use.

`generate` gives one graph a seed. The operators are those of the ONNX standard that take and give float32 numbers, and
those that count and select; shapes come from ONNX's own shape inference.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from support.generated import _layers, _moves, _numbers
from support.generated._graph import MAKERS, Graph, Maker, Value

__all__ = ["MAKERS", "generate", "in_half", "inputs_of"]

del _layers, _moves, _numbers  # imported to enter their steps


def _shape(rng: np.random.Generator) -> tuple[int, ...]:
    """Return the shape of the input, which the generator's first numbers decide."""
    rank = int(rng.choice([4, 4, 4, 3, 2, 5]))
    return (int(rng.integers(1, 3)), int(rng.integers(1, 5)), *(int(size) for size in rng.integers(3, 9, rank - 2)))


def generate(seed: int, length: int = 6) -> onnx.ModelProto:
    """Return a model of ``length`` steps; the same one for the same seed.

    Of three seeds in a row, one gives a model of fixed shapes, one a model with a batch of any size, and one whose
    input has no fixed size at all, though sizes that its nodes hold may allow but one.
    """
    g = Graph(np.random.default_rng(seed))
    g.inputs.append(Value("x", _shape(g.rng)))
    values = list(g.inputs)
    names = list(MAKERS)
    while len(values) <= length:
        make = MAKERS[names[g.whole(0, len(names) - 1)]]
        for source in (values[-1], g.choice(*values), values[0]):
            made = _attempt(g, make, source)
            if made is not None:
                values.append(made)
                break
    used = {name for node in g.nodes for name in node.input}
    model = g.model([value.name for value in values[1:] if value.name not in used])
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.value_info[:]
    if seed % 3:
        _free(model, 1 if seed % 3 == 1 else x_rank(model))
    onnx.checker.check_model(model, full_check=True)
    return model


def x_rank(model: onnx.ModelProto) -> int:
    return len(model.graph.input[0].type.tensor_type.shape.dim)


def _free(model: onnx.ModelProto, axes: int) -> None:
    """Make the first axes of the input symbolic, and leave the shapes of the outputs open."""
    for axis, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim[:axes]):
        dim.dim_param = "batch" if axis == 0 else f"n{axis}"
    for output in model.graph.output:
        for axis, dim in enumerate(output.type.tensor_type.shape.dim):
            dim.dim_param = f"{output.name}_{axis}"


def _attempt(g: Graph, make: Maker, source: Value) -> Value | None:
    nodes, constants = len(g.nodes), len(g.constants)
    name = make(g, source)
    made = None if name is None else g.inferred(name)
    if made is None or made.rank == 0:
        del g.nodes[nodes:], g.constants[constants:]
        return None
    return made


def in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in float16 instead of float32."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = {name for node in result.graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for node in result.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for tensor in result.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            array = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*result.graph.input, *result.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return result


def inputs_of(seed: int) -> dict[str, np.ndarray]:
    """Return a normally distributed input for the model of this seed."""
    return {"x": np.random.default_rng(seed).standard_normal(_shape(np.random.default_rng(seed))).astype(np.float32)}
