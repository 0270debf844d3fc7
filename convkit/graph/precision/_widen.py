"""16-bit models in float32: the same weights, and no rounding between operators."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["NARROW", "widened_model"]

NARROW = (10, 16)
"""ONNX's numbers of float16 and bfloat16."""
_CAST_ATTRIBUTES = ("to", "dtype", "output_dtype")


def widened_model(model: onnx.ModelProto, numbers: Collection[int] = NARROW) -> onnx.ModelProto:
    """Return a model with float32 in place of these types."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    _widen_graph(result.graph, numbers)
    for function in result.functions:
        _widen_nodes(function.node, numbers)
    return result


def _widen_graph(graph: onnx.GraphProto, numbers: Collection[int]) -> None:
    from onnx import TensorProto

    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in numbers:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen_tensor(tensor, numbers)
    _widen_nodes(graph.node, numbers)


def _widen_nodes(nodes: Iterable[onnx.NodeProto], numbers: Collection[int]) -> None:
    from onnx import AttributeProto, TensorProto

    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _widen_graph(attribute.g, numbers)
            elif attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t, numbers)
            elif attribute.name in _CAST_ATTRIBUTES and attribute.i in numbers:
                attribute.i = TensorProto.FLOAT


def _widen_tensor(tensor: onnx.TensorProto, numbers: Collection[int]) -> None:
    from onnx import numpy_helper

    if tensor.data_type in numbers:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
