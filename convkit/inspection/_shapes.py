"""Shapes and dtypes of every tensor of a graph, for given sizes of its symbolic dimensions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["TensorInfo", "dtype_name", "graph_inputs", "infer_shapes", "symbols", "tensor_info"]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a graph: name, NumPy dtype, shape of numbers and symbols.

    ``shape`` is None where even the number of axes is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        extents = "of unknown rank" if self.shape is None else f"[{', '.join(map(str, self.shape))}]"
        return f"{self.name} {self.dtype} {extents}"


def dtype_name(element_type: int) -> str:
    """Return an ONNX element type as it is written: ``float32``, ``int8``, ``bfloat16`` …"""
    import onnx

    try:
        name = str(onnx.TensorProto.DataType.Name(element_type)).lower()
    except ValueError:
        return f"type {element_type}"
    return {"float": "float32", "double": "float64", "undefined": "unknown"}.get(name, name)


def tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    """Return the name, dtype and shape that a graph declares for one of its inputs or outputs.

    An axis without size or symbol is named after its place: ``images.2``.
    """
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return TensorInfo(value.name, (kind or "unknown").removesuffix("_type"), None)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorInfo(value.name, dtype_name(tensor.elem_type), None)
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or f"{value.name}.{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    )
    return TensorInfo(value.name, dtype_name(tensor.elem_type), shape)


def graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that the caller feeds: not the initializers that old files list among them."""
    constants = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in constants]


def symbols(tensors: Iterable[TensorInfo]) -> list[str]:
    """Return the symbolic dimensions of tensors, each once, in order."""
    return list(dict.fromkeys(extent for tensor in tensors for extent in tensor.shape or () if isinstance(extent, str)))


def infer_shapes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the known shape and the dtype of every tensor, by name, when the symbols have these sizes.

    The shapes that the file declares for inner tensors and outputs are not used: exporters leave expressions there
    that no symbol of the inputs resolves. A tensor whose shape is not fully known is left out of the shapes.
    """
    import onnx

    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for value in graph_inputs(sized.graph):
        for extent, dim in zip(tensor_info(value).shape or (), value.type.tensor_type.shape.dim, strict=True):
            if isinstance(extent, str) and extent in sizes:
                dim.dim_value = sizes[extent]
    for value in sized.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    # Of graphs that contradict themselves; their shapes stay unknown.
    with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError, IndexError):
        sized = onnx.shape_inference.infer_shapes(sized, data_prop=True)

    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    for value in (*sized.graph.input, *sized.graph.value_info, *sized.graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        dtypes[value.name] = dtype_name(kind.elem_type)
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    for tensor in sized.graph.initializer:
        shapes[tensor.name], dtypes[tensor.name] = tuple(tensor.dims), dtype_name(tensor.data_type)
    return shapes, dtypes
