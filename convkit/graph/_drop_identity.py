"""Remove Identity nodes between other nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from convkit.graph._rewrite import NodeRewrite, NoMatch, Phase

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["DropIdentity"]


class DropIdentity(NodeRewrite):
    """Connect the consumers of an Identity to its source."""

    name: ClassVar[str] = "graph.drop-identity"
    phase: ClassVar[Phase] = "clean"
    reason: ClassVar[str] = "an Identity hides patterns from the rewrites behind it"
    op_types: ClassVar[tuple[str, ...]] = ("Identity",)

    def match(self, graph: gs.Graph, node: gs.Node) -> bool | NoMatch:
        """Accept a node that neither end of the graph needs."""
        if any(output is node.outputs[0] for output in graph.outputs):
            return NoMatch("its output is an output of the graph and must keep its name")
        return True

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: bool) -> None:
        """Feed the consumers from the source."""
        source, result = node.inputs[0], node.outputs[0]
        for consumer in list(result.outputs):
            consumer.inputs = [source if tensor is result else tensor for tensor in consumer.inputs]
        node.outputs.clear()
