"""Graphs inside of nodes: the bodies of loops and branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["all_graphs", "read_names"]


def all_graphs(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield a graph and those inside it, however deep."""
    yield graph
    for node in graph.node:
        for body in _bodies(node):
            yield from all_graphs(body)


def read_names(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node reads, those that graphs inside of it take from around it included."""
    yield from filter(None, node.input)
    for inner in _bodies(node):
        own = {value.name for value in inner.input} | {tensor.name for tensor in inner.initializer}
        own.update(name for each in inner.node for name in each.output)
        found = {name for each in inner.node for name in read_names(each)} | {value.name for value in inner.output}
        yield from sorted(found - own)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
