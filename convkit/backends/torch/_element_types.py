"""The element types of the values in a graph, as far as ONNX can tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convkit._onnx_errors import onnx_errors
from convkit.backends.torch._node import torch_dtype
from convkit.errors import EnvironmentProblem

if TYPE_CHECKING:
    import onnx

__all__ = ["element_types"]

_SMALL = 1024
"""Numbers in a constant that may matter for the types of others."""


def element_types(model: onnx.ModelProto) -> dict[str, torch.dtype | str]:
    """Return the type of each value that is known or can be inferred; one that the backend lacks is a text."""
    import onnx

    lean = _without_weights(model)
    try:
        lean = onnx.shape_inference.infer_shapes(lean)
    except onnx_errors():  # a graph that ONNX cannot follow keeps the types that it states
        lean = _without_weights(model)
    values = (*lean.graph.value_info, *lean.graph.input, *lean.graph.output)
    numbers = {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}
    numbers.update({tensor.name: tensor.data_type for tensor in lean.graph.initializer})
    kinds: dict[str, Any] = {
        value.name: f"a {value.type.WhichOneof('value')}"
        for value in values
        if value.type.WhichOneof("value") not in (None, "tensor_type")
    }
    return {**kinds, **{name: _named(number) for name, number in numbers.items() if number}}


def _named(number: int) -> torch.dtype | str:
    import onnx

    try:
        return torch_dtype(number)
    except EnvironmentProblem:
        return next((name.lower() for name, value in onnx.TensorProto.DataType.items() if value == number), "unknown")


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large constants as inputs: inference needs their types, and copies what it gets."""
    import onnx
    from onnx import helper

    lean = onnx.ModelProto(ir_version=model.ir_version)
    lean.opset_import.extend(model.opset_import)
    graph, source = lean.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.value_info.extend(source.value_info)
    known = {value.name for value in source.input}
    for tensor in source.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return lean
