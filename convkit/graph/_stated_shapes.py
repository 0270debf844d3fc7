"""Shapes that a graph states, as constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["fold_stated_shapes"]

_LARGEST = 2**62
"""Ends of slices from here on mean the end of the axis."""


def fold_stated_shapes(graph: gs.Graph) -> int:
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
