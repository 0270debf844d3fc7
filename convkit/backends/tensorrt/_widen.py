"""16-bit models and networks in float32: the same weights, and no rounding between operators.

What a parser gets wrong then stands out from float32's rounding alone. Compared in 16 bits, it would have to stand out
from theirs, which in bfloat16 leaves a fault of a tenth unseen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork

if TYPE_CHECKING:
    import onnx

__all__ = ["NARROW", "widened_feeds", "widened_model", "widened_network"]

NARROW = (10, 16)
"""ONNX's numbers of float16 and bfloat16."""
_NARROW_TYPES = ("HALF", "BF16")
_CAST_ATTRIBUTES = ("to", "dtype", "output_dtype")


def widened_network(network: ParsedNetwork) -> ParsedNetwork | None:
    """Return a network whose 16-bit tensors are float32; None for one that has none.

    Weights keep the values that 16 bits gave them. It is also None where the parser has made weights of its own of
    those of the model, as of a batch normalisation, and rounded them to 16 bits: the model in float32 lacks that.
    """
    if not any(tensor.dtype in _NARROW_TYPES for tensor in network.tensors):
        return None
    if any(layer.type == "SCALE" and _rounded(layer) for layer in network.layers):
        return None
    tensors = tuple(
        replace(tensor, dtype="FLOAT") if tensor.dtype in _NARROW_TYPES else tensor for tensor in network.tensors
    )
    return replace(network, tensors=tensors)


def _rounded(layer: ParsedLayer) -> bool:
    return any(weights.dtype in _NARROW_TYPES and weights.count for weights in layer.weights.values())


def widened_feeds(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return inputs with those of 16-bit types as float32."""
    return {
        name: value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value
        for name, value in feeds.items()
    }


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
