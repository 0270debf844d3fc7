"""Replace nodes whose inputs are all constant by what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convkit.graph._constants import lower_constants
from convkit.graph._rewrite import Phase, Rewrite

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["FoldConstants"]

RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
"""Node types that give something else each time, whatever their inputs."""
_LARGEST = 2**62
"""Ends of slices from here on mean the end of the axis."""


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

        before = len(graph.nodes)
        lower_constants(graph)
        while True:
            # Not ``fold_shapes``: graphsurgeon reads past ``start`` and ``end`` of a Shape, and makes integers of the
            # factors between two casts.
            graph.fold_constants(
                fold_shapes=False, size_threshold=self.size_threshold, should_exclude_node=_stays
            ).cleanup()
            if not _fold_shapes(graph):
                return before - len(graph.nodes)


def _stays(node: gs.Node) -> bool:
    """Return whether a node is not to be folded, whatever its inputs."""
    import onnx

    if node.op in RANDOM or not all(_plain(tensor.dtype) for tensor in (*node.inputs, *node.outputs)):
        return True
    return node.op == "Cast" and not _plain(onnx.helper.tensor_dtype_to_np_dtype(_number(node.attrs["to"])))


def _number(kind: Any) -> int:
    import onnx

    return kind if isinstance(kind, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _plain(kind: Any) -> bool:
    """Return whether values of a type go through ONNX Runtime unchanged; a type that is not known may."""
    import ml_dtypes
    import onnx

    if kind is None:
        return True
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else np.dtype(kind)
    return dtype.kind in "biufc" or dtype == ml_dtypes.bfloat16


def _fold_shapes(graph: gs.Graph) -> int:
    """Make constants of the sizes that the graph states; return how many."""
    found: list[tuple[gs.Tensor, np.ndarray]] = []
    for node in graph.nodes:
        if node.op not in ("Shape", "Size") or node.inputs[0].shape is None:
            continue
        sizes: Sequence[Any] = list(node.inputs[0].shape)
        if node.op == "Size":
            if all(map(_known, sizes)):
                found.append((node.outputs[0], np.array(np.prod(sizes, dtype=np.int64))))
            continue
        sizes = sizes[node.attrs.get("start", 0) : node.attrs.get("end", len(sizes))]
        if all(map(_known, sizes)):
            found.append((node.outputs[0], np.array(sizes, np.int64)))
            continue
        found += [
            (part.outputs[0], taken) for part in node.outputs[0].outputs if (taken := _taken(part, sizes)) is not None
        ]
    for tensor, values in found:
        if tensor.inputs:
            tensor.to_constant(values)
            tensor.inputs.clear()
    graph.cleanup()
    return len(found)


def _known(size: Any) -> bool:
    return isinstance(size, (int, np.integer)) and int(size) >= 0


def _taken(node: gs.Node, sizes: Sequence[Any]) -> np.ndarray | None:
    """Return what a Gather or Slice takes of a shape, None where that is not known."""
    if node.op not in ("Gather", "Slice") or not all(hasattr(tensor, "values") for tensor in node.inputs[1:]):
        return None
    numbers = [np.asarray(tensor.values) for tensor in node.inputs[1:]]
    if node.op == "Gather" and node.attrs.get("axis", 0) in (0, -1):
        indices = numbers[0]
        if indices.size and not (-len(sizes) <= indices.min() and indices.max() < len(sizes)):
            return None
        chosen = [sizes[int(index)] for index in indices.reshape(-1)]
        return np.array(chosen, np.int64).reshape(indices.shape) if all(map(_known, chosen)) else None
    if node.op == "Slice" and len(numbers) >= 2 and all(values.size == 1 for values in numbers):
        given = [int(values.reshape(())) for values in numbers]
        start, end, axis, step = [*given, *[0, 1][len(given) - 2 :]]
        if axis not in (0, -1) or step < 1:
            return None
        chosen = list(sizes[start : None if end >= _LARGEST else end : step])
        return np.array(chosen, np.int64) if all(map(_known, chosen)) else None
    return None
