"""Constants that stand in a graph as nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["lower_constants"]

_KINDS: dict[str, Any] = {
    "value": None, "value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64,
}  # fmt: skip


def lower_constants(graph: gs.Graph) -> None:
    """Make a constant of the graph of each Constant node with numbers, in the type that ONNX gives it.

    Graphs and functions inside are searched, too. Texts, sparse values and values that a function gets are left.
    """
    for each in (graph, *graph.subgraphs(recursive=True), *graph.functions):
        _lower(each)


def _lower(graph: gs.Graph) -> None:
    import onnx_graphsurgeon as gs

    gone = set()
    for node in graph.nodes:
        if node.op != "Constant" or len(node.attrs) != 1 or node.domain not in (None, "", "ai.onnx"):
            continue
        ((name, value),) = node.attrs.items()
        if name not in _KINDS or isinstance(value, gs.Node.AttributeRef):
            continue
        if name == "value" and np.dtype(value.dtype).kind in "OSU":
            continue
        output = node.outputs[0]
        # ``_values`` leaves a large tensor in the file until somebody reads it.
        output.to_constant(value._values if name == "value" else np.asarray(value, _KINDS[name]))
        output.inputs.clear()
        gone.add(id(node))
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
