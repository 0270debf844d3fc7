"""16-bit models and networks in float32: the same weights, and no rounding between operators.

What a parser gets wrong then stands out from float32's rounding alone. Compared in 16 bits, it would have to stand out
from theirs, which in bfloat16 leaves a fault of a tenth unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork

__all__ = ["widened_feeds", "widened_network"]

_NARROW_TYPES = ("HALF", "BF16")


def widened_network(network: ParsedNetwork) -> ParsedNetwork | None:
    """Return a network whose 16-bit tensors are float32; None for one that has none.

    Weights keep the values that 16 bits gave them. It is also None where the parser has made weights of its own of
    those of the model, as of a batch normalisation, and rounded them to 16 bits: the model in float32 lacks that.
    """
    if not any(tensor.dtype in _NARROW_TYPES for tensor in network.tensors):
        return None
    if any(layer.type == "SCALE" and _rounded(layer) for layer in network.layers):
        return None
    tensors = tuple(
        replace(tensor, dtype="FLOAT") if tensor.dtype in _NARROW_TYPES else tensor for tensor in network.tensors
    )
    return replace(network, tensors=tensors)


def _rounded(layer: ParsedLayer) -> bool:
    return any(weights.dtype in _NARROW_TYPES and weights.count for weights in layer.weights.values())


def widened_feeds(feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return inputs with those of 16-bit types as float32."""
    return {
        name: value.astype(np.float32) if value.dtype.name in ("float16", "bfloat16") else value
        for name, value in feeds.items()
    }
