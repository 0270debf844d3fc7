"""The rewrites ``graph.to-fp16`` and ``graph.to-bf16``: weights and activations become 16-bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from convkit.graph._constants import lower_constants
from convkit.graph._metadata import PRECISION_KEY, annotate
from convkit.graph._rewrite import Phase, Rewrite
from convkit.graph.precision._names import FreeNames, check_names
from convkit.graph.precision._policy import Plan, plan_types
from convkit.graph.precision._unfit import Range
from convkit.model import find_precision

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["To16Bit"]

_BFLOAT16_OPSET = 22
"""The first opset whose convolutions and pooling operators take bfloat16."""
_RAISABLE = range(19, _BFLOAT16_OPSET)
_CHANGED = frozenset({"DFT", "GridSample", "GroupNormalization"})
"""Operators that changed between those opsets by more than the types that they take."""


class To16Bit(Rewrite):
    """Give the graph 16-bit types; its inputs and outputs stay float32, with a Cast where the types meet.

    These nodes stay float32, each with its reason in its metadata (`PRECISION_KEY`) and among the near misses:

    * what decides (TopK, ArgMax, comparisons, a Cast to integers …); what follows from a decision, up to the next
      convolution; and what leads to it, back to the operator with weights and this one, too: its result would otherwise
      be rounded before it is compared;
    * operators that do not take the type in the graph's opset, and nodes with graphs of their own;
    * arithmetic on shapes and constants, and whole numbers that become floating;
    * GridSample and RoiAlign, with what computes their positions behind the operator with weights; sums of squares;
    * nodes with a constant that overflows in 16 bits, vanishes or is subnormal;
    * nodes whose values on samples do (``ranges``, by name of the tensor), and divisions by what becomes 0;
    * the nodes whose names are in ``keep``.

    QuantizeLinear has the type of the tensor that it reads, and DequantizeLinear that of its readers.

    For bfloat16 the opset becomes 22 where it is older and nothing but types changed in the operators of the graph:
    before, convolutions do not take it.
    """

    name: ClassVar[str] = "graph.to-16-bit"
    reason: ClassVar[str] = "engines compute in the types of the graph"
    phase: ClassVar[Phase] = "precision"

    def __init__(self, precision: str, keep: Collection[str] = (), ranges: Mapping[str, Range] | None = None) -> None:
        self.precision, self.keep = find_precision(precision, floating=True), frozenset(keep)
        self.ranges = ranges or {}
        self.name = f"graph.to-{precision}"  # type: ignore[misc]

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Change the types, and count the nodes that became 16-bit.

        Raises:
            SettingError: the graph has no node with one of the names in ``keep``.
        """
        check_names(self.keep, graph, "to keep in float32")
        lower_constants(graph)
        if self.precision.name == "bf16":
            _raise_opset(graph)
        plan = plan_types(graph, self.precision.dtype, self.keep, self.ranges)
        for node, reason in plan.kept:
            near_misses.append(f"{node.name}: {reason}")
            annotate(node, PRECISION_KEY, reason)
        if plan.narrow:
            _Change(graph, plan, self.precision.dtype).make()
        return len(plan.narrow)


def _raise_opset(graph: gs.Graph) -> None:
    nodes = [*graph.nodes, *(node for inner in graph.subgraphs(recursive=True) for node in inner.nodes)]
    if graph.opset not in _RAISABLE or any(node.op in _CHANGED for node in nodes):
        return
    graph.opset = _BFLOAT16_OPSET
    for item in graph.import_domains or ():
        if item.domain in ("", "ai.onnx"):
            item.version = _BFLOAT16_OPSET


class _Change:
    """Carries a plan out: types of tensors, constants, and a Cast wherever a node reads another type than it takes."""

    def __init__(self, graph: gs.Graph, plan: Plan, dtype: str) -> None:
        import onnx

        self.graph, self.plan, self.dtype = graph, plan, dtype
        self.number = onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.BFLOAT16
        self.float32 = onnx.TensorProto.FLOAT
        self.names = FreeNames(graph)
        self.narrow: set[int] = set()
        self.casts: dict[tuple[int, int], gs.Tensor] = {}
        self.copies: dict[int, gs.Constant] = {}

    def make(self) -> None:
        """Change the graph."""
        nodes = list(self.graph.nodes)
        for node in nodes:
            self._type_results(node)
        for node in nodes:
            positions = self.plan.narrow.get(id(node))
            kept = not _reads_any_type(node)
            for place, tensor in enumerate(list(node.inputs)):
                if positions is not None and place in positions.inputs:
                    node.inputs[place] = self._narrowed(tensor)
                elif kept and id(tensor) in self.narrow:
                    node.inputs[place] = self._cast(tensor, self.float32)
            for inner in node.subgraphs(recursive=True):
                self._widen_captured(inner)

    def _type_results(self, node: gs.Node) -> None:
        """Give the results of a node their type; an output of the graph gets a Cast behind it instead."""
        import onnx_graphsurgeon as gs

        positions = self.plan.narrow.get(id(node))
        if positions is None:
            return
        if node.op == "Cast":
            node.attrs["to"] = self.number
        for place in positions.outputs:
            tensor = node.outputs[place]
            if any(tensor is output for output in self.graph.outputs):
                inner = gs.Variable(self.names.take(f"{tensor.name}.{self.dtype}"), self.number, tensor.shape)
                for reader in list(tensor.outputs):
                    reader.inputs = [inner if other is tensor else other for other in reader.inputs]
                node.outputs[place] = inner
                self._append_cast(inner, tensor, self.float32)
                self.casts[id(inner), self.float32] = tensor
                tensor = inner
            tensor.dtype = self.number
            self.narrow.add(id(tensor))

    def _narrowed(self, tensor: gs.Tensor) -> gs.Tensor:
        import ml_dtypes
        import onnx_graphsurgeon as gs

        if not isinstance(tensor, gs.Constant):
            return tensor if id(tensor) in self.narrow else self._cast(tensor, self.number)
        if id(tensor) not in self.copies:
            kind = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.float16
            values = np.asarray(tensor.values).astype(kind)
            self.copies[id(tensor)] = gs.Constant(self.names.take(f"{tensor.name}.{self.dtype}"), values)
        return self.copies[id(tensor)]

    def _cast(self, tensor: gs.Tensor, number: int) -> gs.Tensor:
        import onnx_graphsurgeon as gs

        key = id(tensor), number
        if key not in self.casts:
            name = f"{tensor.name}.{'float32' if number == self.float32 else self.dtype}"
            self.casts[key] = gs.Variable(self.names.take(name), number, tensor.shape)
            self._append_cast(tensor, self.casts[key], number)
        return self.casts[key]

    def _append_cast(self, source: gs.Tensor, result: gs.Tensor, number: int) -> None:
        import onnx_graphsurgeon as gs

        self.graph.nodes.append(gs.Node("Cast", f"{result.name}/Cast", {"to": number}, [source], [result]))

    def _widen_captured(self, inner: gs.Graph) -> None:
        """Let a graph inside of a node read the tensors around it in float32, as before."""
        for node in inner.nodes:
            for place, tensor in enumerate(list(node.inputs)):
                if id(tensor) in self.narrow:
                    node.inputs[place] = self._cast(tensor, self.float32)
        inner.outputs = [
            self._cast(tensor, self.float32) if id(tensor) in self.narrow else tensor for tensor in inner.outputs
        ]


def _reads_any_type(node: gs.Node) -> bool:
    return node.op in ("Cast", "Shape", "Size")
