"""Element types in a graph, and those that ONNX permits an operator."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

__all__ = ["Positions", "element_types", "is_float32", "model_types", "narrow_positions"]

_OWN_TYPE = frozenset({"BatchNormalization", "Resize"})
"""Operators whose parameters may be wider than what they are applied to, and then stay so."""
_SMALL = 1024
"""Numbers in a constant that may matter for the types and shapes of others."""


@dataclass(frozen=True)
class Positions:
    """The inputs and outputs of a node that become 16-bit, by position."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()


def element_types(graph: gs.Graph) -> dict[str, int]:
    """Return the ONNX type number of each tensor of the outer graph that is known or can be inferred."""
    import onnx_graphsurgeon as gs

    return model_types(gs.export_onnx(graph, do_type_check=False))


def model_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ONNX type number of each tensor of the outer graph of a model that is known or can be inferred."""
    import onnx

    typed = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    values = (*typed.input, *typed.output, *typed.value_info)
    table = {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}
    table.update({tensor.name: tensor.data_type for tensor in typed.initializer})
    return {name: number for name, number in table.items() if number}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large constants are inputs: inference needs their types, and copies what it gets."""
    import onnx
    from onnx import helper

    copy, graph = onnx.ModelProto(ir_version=model.ir_version), model.graph
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(copy.graph, field).extend(getattr(graph, field))
    known = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in known:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return copy


def is_float32(types: Mapping[str, int], tensor: gs.Tensor) -> bool:
    """Return whether a tensor is known to contain float32."""
    from onnx import TensorProto

    return types.get(tensor.name) == TensorProto.FLOAT


def narrow_positions(node: gs.Node, types: Mapping[str, int], opset: int, narrow: str) -> Positions | str:
    """Return which inputs and outputs of a node can be of the type ``narrow`` (``float16``), or why it stays float32.

    Inputs that the standard wants in another type stay as they are, and so do parameters of a type of their own where
    that is of use: those of a batch normalisation, the region of a Resize.
    """
    import onnx

    domain = "" if node.domain in (None, "", "ai.onnx") else node.domain
    try:
        if domain:
            raise onnx.defs.SchemaError
        schema = onnx.defs.get_schema(node.op, opset, "")
    except onnx.defs.SchemaError:
        return f"the ONNX standard does not say which types {domain or 'ai.onnx'}::{node.op} takes"
    permitted = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    wanted = f"tensor({narrow})"
    inputs = [(place, _type_of(schema.inputs, place)) for place, x in enumerate(node.inputs) if is_float32(types, x)]
    outputs = [(place, _type_of(schema.outputs, place)) for place, x in enumerate(node.outputs) if is_float32(types, x)]
    bound = {kind for _, kind in outputs}
    fixed = [kind for kind in bound if wanted not in permitted.get(kind, ())]
    if fixed or (not outputs and any(wanted not in permitted.get(kind, ()) for _, kind in inputs)):
        return f"{node.op} takes no {narrow} in opset {opset}"
    if not bound <= {_type_of(schema.inputs, place) for place in range(len(node.inputs))}:
        return f"{node.op} sets the type of its result by an attribute"
    own = node.op in _OWN_TYPE
    chosen = [place for place, kind in inputs if kind in bound or (not own and wanted in permitted.get(kind, ()))]
    return Positions(tuple(chosen), tuple(place for place, _ in outputs))


def _type_of(parameters: Sequence[Any], place: int) -> str:
    """Return the name of a parameter's type in the standard; the last one stands for all that follow."""
    parameter = parameters[min(place, len(parameters) - 1)]
    return str(getattr(parameter, "type_str", None) or parameter.typeStr)
