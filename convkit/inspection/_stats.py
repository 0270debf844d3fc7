"""What a graph contains and costs: operators, parameters, arithmetic, precision."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING, Any

from convkit.errors import ArtifactError
from convkit.graph import all_graphs, module_of
from convkit.inspection._flops import has_formula, is_opaque, node_flops
from convkit.inspection._shapes import TensorInfo, dtype_name, graph_inputs, infer_shapes, symbols, tensor_info

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphStats", "NodeCost", "graph_stats", "operator_name", "operator_schema", "symbolic_dims"]

MAX_NODES = 1_000_000
"""Nodes of a graph with its functions put in; a function that calls another twice, and so on, can mean any number."""
_WEIGHT_TYPES = ("float", "bfloat16", "int8", "uint8", "int4", "uint4", "int2", "uint2")
"""How the names of the dtypes of weights begin; the others are those of shapes, axes and indices."""


@dataclass(frozen=True)
class NodeCost:
    """The arithmetic of one node, and the module of the source network that it comes from."""

    name: str
    operator: str
    module: str
    output: tuple[int, ...]
    flops: int


@dataclass(frozen=True)
class GraphStats:
    """What `graph_stats` found.

    Attributes:
        opsets: version by domain; the standard domain is ``ai.onnx``.
        operators: number of nodes by operator, those in the bodies of control flow included.
        parameters: elements of the weights. Weights are initializers and Constant nodes of floating
            point or of integers of at most 8 bits, and 32-bit integers that a DequantizeLinear
            reads (quantised biases); scales and zero points do not count, and a shared weight
            counts once.
        parameter_bytes: what these elements occupy.
        parameter_dtypes: elements by dtype.
        tensor_dtypes: number of tensors that nodes compute, by dtype.
        quantization: number of QuantizeLinear and DequantizeLinear nodes by ``operator dtype``.
        sizes: the size that each symbolic dimension was given for ``flops``.
        unsized: symbolic dimensions without a size; then ``flops`` is None and ``costs`` is empty.
        flops: floating-point operations of one run (see `convkit.inspection._flops` for what counts).
        costs: the nodes that have any, most expensive first.
        uncounted: nodes by operator whose arithmetic is not in ``flops`` though it may be large:
            operators without a formula, and shapes that inference could not find.
        foreign: operators that ONNX does not define, so that an engine needs a plugin for them.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    parameter_dtypes: Mapping[str, int]
    tensor_dtypes: Mapping[str, int]
    quantization: Mapping[str, int]
    sizes: Mapping[str, int]
    unsized: tuple[str, ...]
    flops: int | None
    costs: tuple[NodeCost, ...]
    uncounted: Mapping[str, int]
    foreign: tuple[str, ...]

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return sum(self.operators.values())

    def flops_by_operator(self) -> dict[str, int]:
        """Return the arithmetic of each operator that has any."""
        table: Counter[str] = Counter()
        for cost in self.costs:
            table[cost.operator] += cost.flops
        return dict(table)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"nodes": self.nodes, **asdict(self)}


def graph_stats(model: onnx.ModelProto, sizes: Mapping[str, int]) -> GraphStats:
    """Describe a graph; ``sizes`` are those of its symbolic dimensions, for shapes and arithmetic.

    The first axis of an input counts as a batch of 1 where ``sizes`` does not name it.

    Raises:
        ArtifactError: the functions of the model call each other without end, or make it too large.
    """
    import onnx.checker
    import onnx.inliner

    if model.functions:
        _check_functions(model)
        try:
            model = onnx.inliner.inline_local_functions(model)
        except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"The functions of the graph cannot be put in: {str(error).splitlines()[0]}",
                hint="Export the model again.",
            ) from error
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    foreign = {operator_name(node) for node in _all_nodes(model.graph) if operator_schema(node, opsets) is None}
    inputs = tuple(tensor_info(value) for value in graph_inputs(model.graph))
    batch = {tensor.shape[0]: 1 for tensor in inputs if tensor.shape and isinstance(tensor.shape[0], str)}
    known = {name: size for name, size in {**batch, **sizes}.items() if name in symbols(inputs)}
    unsized = tuple(name for name in symbols(inputs) if name not in known)
    shapes, dtypes = infer_shapes(model, known)
    parameters: Counter[str] = Counter()
    for tensor in _weights(model.graph):
        parameters[dtype_name(tensor.data_type)] += prod(tensor.dims)
    costs, uncounted = ((), {}) if unsized else _costs(model.graph, shapes, foreign)
    return GraphStats(
        inputs=inputs,
        outputs=tuple(tensor_info(value) for value in model.graph.output),
        opsets=opsets,
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=_descending(Counter(operator_name(node) for node in _all_nodes(model.graph))),
        parameters=sum(parameters.values()),
        parameter_bytes=sum(_bytes(dtype, count) for dtype, count in parameters.items()),
        parameter_dtypes=_descending(parameters),
        tensor_dtypes=_descending(
            Counter(dtypes.get(name, "unknown") for node in model.graph.node for name in node.output if name)
        ),
        quantization=_descending(Counter(_quantized(model.graph, dtypes))),
        sizes=known,
        unsized=unsized,
        flops=None if unsized else sum(cost.flops for cost in costs),
        costs=costs,
        uncounted=uncounted,
        foreign=tuple(sorted(foreign)),
    )


def operator_name(node: onnx.NodeProto) -> str:
    """Return the operator of a node, with its domain where that is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def operator_schema(node: onnx.NodeProto, opsets: Mapping[str, int]) -> onnx.defs.OpSchema | None:
    """Return ONNX's definition of the node's operator, or None for one that ONNX does not define."""
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    version = min(max(opsets.get(domain or "ai.onnx", 1), 0), 2**31 - 1)
    try:
        return onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def symbolic_dims(model: onnx.ModelProto) -> list[str]:
    """Return the names of the symbolic dimensions of the inputs, in order."""
    return symbols(tensor_info(value) for value in graph_inputs(model.graph))


def _check_functions(model: onnx.ModelProto) -> None:
    """Check that the graph stays below `MAX_NODES` when each call of a function is replaced by its body.

    Raises:
        ArtifactError: it does not.
    """
    bodies = {(f.domain, f.name): [(n.domain, n.op_type) for n in _all_nodes(f)] for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    try:
        for name in TopologicalSorter({name: bodies.keys() & calls for name, calls in bodies.items()}).static_order():
            sizes[name] = sum(sizes.get(call, 1) for call in bodies[name])
    except CycleError as error:
        raise ArtifactError(
            "The functions of the graph call each other without end.", hint="Export the model again."
        ) from error
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in _all_nodes(model.graph))
    if total > MAX_NODES:
        raise ArtifactError(
            f"The graph has {total:.3g} nodes with its functions put in, which are too many to look at.",
            hint="Export the model without functions.",
        )


def _costs(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], foreign: Collection[str]
) -> tuple[tuple[NodeCost, ...], dict[str, int]]:
    costs, uncounted = [], Counter[str]()
    for node in graph.node:
        flops = node_flops(node, shapes) if has_formula(node) else None
        if flops is not None:
            output = shapes.get(node.output[0], ()) if node.output else ()
            costs.append(NodeCost(node.name, operator_name(node), module_of(node), output, flops))
        elif has_formula(node) or is_opaque(node) or operator_name(node) in foreign:
            uncounted[operator_name(node)] += 1
    return tuple(sorted(costs, key=lambda cost: -cost.flops)), _descending(uncounted)


def _weights(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors that count as parameters; see `GraphStats`."""
    quantizers = [node for node in _all_nodes(graph) if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    settings = {name for node in quantizers for name in node.input[1:]}
    quantized = {name for node in quantizers for name in node.input[:1]}
    for name, tensor in _constants(graph):
        dtype = dtype_name(tensor.data_type)
        if name not in settings and (dtype.startswith(_WEIGHT_TYPES) or (dtype == "int32" and name in quantized)):
            yield tensor


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for inner in all_graphs(graph):
        yield from ((tensor.name, tensor) for tensor in inner.initializer)
        for node in inner.node:
            if node.op_type == "Constant":
                values = [entry.t for entry in node.attribute if entry.name == "value"]
                yield from zip(node.output, values, strict=False)


def _quantized(graph: onnx.GraphProto, dtypes: Mapping[str, str]) -> Iterator[str]:
    """Yield the operator of every Q or DQ node with the dtype on its quantised side."""
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            tensors = node.output if node.op_type == "QuantizeLinear" else node.input
            yield f"{node.op_type} {dtypes.get(next(iter(tensors), ''), 'unknown')}"


def _all_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    for inner in all_graphs(graph):
        yield from inner.node


def _bytes(dtype: str, count: int) -> int:
    """Return what ``count`` elements occupy: the first number in the name of a dtype is its bits."""
    bits = re.search(r"\d+", dtype)
    return -(-count * int(bits.group() if bits else 8) // 8)


def _descending(table: Counter[str]) -> dict[str, int]:
    return dict(sorted(table.items(), key=lambda item: (-item[1], item[0])))
