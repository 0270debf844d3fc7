"""A model in float64: what it means, without the rounding of any type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["in_float64"]

_NUMBERS = (1, 10, 16)
"""ONNX's numbers of float32, float16 and bfloat16."""
_CAST_ATTRIBUTES = ("to", "dtype", "output_dtype")


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with float64 in place of float32 and 16-bit types: its weights keep the values that they have."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    _graph(result.graph)
    return result


def _graph(graph: onnx.GraphProto) -> None:
    import onnx

    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _NUMBERS:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in graph.initializer:
        _tensor(tensor)
    _nodes(graph.node)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    from onnx import AttributeProto, TensorProto, helper, numpy_helper

    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _graph(attribute.g)
            elif attribute.type == AttributeProto.TENSOR:
                _tensor(attribute.t)
            elif attribute.name in _CAST_ATTRIBUTES and attribute.i in _NUMBERS:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = np.asarray(helper.get_attribute_value(attribute), np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))


def _tensor(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    if tensor.data_type in _NUMBERS:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
