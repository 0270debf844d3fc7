"""What the error of one tensor brings about in the outputs: the rest of the network run on it, without other errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from convkit.bisection._graph import FLOATING, GraphParts
from convkit.bisection._run import Parts
from convkit.proof import measure

if TYPE_CHECKING:
    import onnx

__all__ = ["Carried", "Carrier", "shares_of"]

Values = Mapping[str, np.ndarray]
Carried = dict[str, float]
"""By output: how far an error of one tensor puts it off, relative in the Euclidean norm."""
NOISE = 1e-5
"""Relative error of the outputs from which on float32 runs tell whose it is."""


class Carrier:
    """Carries errors of tensors to the outputs of a model, in float32, for one feed."""

    def __init__(self, parts: GraphParts, runs: Parts, feed: Values) -> None:
        self._parts, self._runs, self._feed = parts, runs, feed
        self._names = [name for name in parts.outputs if parts.types.get(name) in FLOATING and name in parts.makers]
        self._base: Values = {}

    def carry(self, tensor: str, value: np.ndarray) -> Carried:
        """Return how far the outputs are off where a tensor has this value; of an output, only itself."""
        if not self._names:
            return {}
        if not self._base:
            whole = self._parts.cut_out(self._parts.nodes, self._parts.inputs, self._names)
            self._base = self._runs.run(whole, self._feed)[0]
        if tensor in self._names:
            found: Mapping[str, np.ndarray] = {tensor: value}
            names = [tensor]
        else:
            found, names = self._runs.run(self._fed_with(tensor), {**self._feed, tensor: value})[0], self._names
        return {name: measure(self._base[name], found[name]).rel_l2 for name in names}

    def _fed_with(self, tensor: str) -> onnx.ModelProto:
        """Return the model with a tensor from inside as one more input."""
        import onnx

        parts = self._parts
        maker = onnx.NodeProto()
        maker.CopyFrom(parts.nodes[parts.makers[tensor]])
        maker.output[list(maker.output).index(tensor)] = f"{tensor} is fed"
        nodes = [maker if place == parts.makers[tensor] else node for place, node in enumerate(parts.nodes)]
        return parts.cut_out(nodes, [*parts.inputs, tensor], self._names)


def shares_of(carried: Mapping[str, Carried], totals: Mapping[str, float]) -> dict[str, float]:
    """Return the part of the squared output error of each tensor, of the output where it is largest.

    ``totals`` are the errors of the outputs, relative; those within the noise of float32 say nothing.
    """
    names = [name for name, total in totals.items() if NOISE < total < np.inf]
    return {
        tensor: max((errors.get(name, 0.0) / totals[name] for name in names), default=0.0) ** 2
        for tensor, errors in carried.items()
        if names
    }
