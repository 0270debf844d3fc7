"""Replace nodes whose inputs are all constant by what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from convkit.graph._rewrite import Phase, Rewrite

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["FoldConstants"]

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Node types that give something else each time, whatever their inputs."""


class FoldConstants(Rewrite):
    """Fold constant subgraphs with ONNX Runtime, except where the result is much larger than its source.

    Shapes that the graph states are constants, too: a Shape or Size, and what a Gather or Slice takes of a Shape. Text
    stays as it is, and so do types that ONNX Runtime does not return as they are (of 8 bits floating, of 4 bits).
    """

    name: ClassVar[str] = "graph.fold-constants"
    phase: ClassVar[Phase] = "clean"
    reason: ClassVar[str] = "a value that never changes is computed once, here"
    size_threshold: ClassVar[int] = 16 * 2**20

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Fold, and count the nodes that became constants."""
        import convkit._onnxruntime  # noqa: F401 - graphsurgeon imports onnxruntime itself
        from convkit.graph._constants import lower_constants
        from convkit.graph._stated_shapes import fold_stated_shapes

        before = len(graph.nodes)
        lower_constants(graph)
        while True:
            # Not ``fold_shapes``: graphsurgeon reads past ``start`` and ``end`` of a Shape, and makes integers of the
            # factors between two casts.
            graph.fold_constants(
                fold_shapes=False, size_threshold=self.size_threshold, should_exclude_node=_stays
            ).cleanup()
            if not fold_stated_shapes(graph):
                return before - len(graph.nodes)


def _stays(node: gs.Node) -> bool:
    """Return whether a node is not to be folded, whatever its inputs."""
    import onnx

    if node.op in RANDOM or not all(_plain(tensor.dtype) for tensor in (*node.inputs, *node.outputs)):
        return True
    return node.op == "Cast" and not _plain(onnx.helper.tensor_dtype_to_np_dtype(_number(node.attrs["to"])))


def _number(kind: Any) -> int:
    import numpy as np
    import onnx

    return kind if isinstance(kind, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _plain(kind: Any) -> bool:
    """Return whether values of a type go through ONNX Runtime unchanged; a type that is not known may."""
    import ml_dtypes
    import numpy as np
    import onnx

    if kind is None:
        return True
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else np.dtype(kind)
    return dtype.kind in "biufc" or dtype == ml_dtypes.bfloat16
