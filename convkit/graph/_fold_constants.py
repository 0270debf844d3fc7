"""Replace nodes whose inputs are all constant by what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from convkit.graph._rewrite import Phase, Rewrite

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["FoldConstants"]

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Node types that give something else each time, whatever their inputs."""


class FoldConstants(Rewrite):
    """Fold constant subgraphs with ONNX Runtime, except where the result is much larger than its source."""

    name: ClassVar[str] = "graph.fold-constants"
    phase: ClassVar[Phase] = "clean"
    reason: ClassVar[str] = "a value that never changes is computed once, here"
    size_threshold: ClassVar[int] = 16 * 2**20

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Fold, and count the nodes that became constants."""
        import convkit._onnxruntime  # noqa: F401 - graphsurgeon imports onnxruntime itself

        before = len(graph.nodes)
        graph.fold_constants(
            fold_shapes=True, size_threshold=self.size_threshold, should_exclude_node=lambda node: node.op in RANDOM
        )
        graph.cleanup()
        return before - len(graph.nodes)
