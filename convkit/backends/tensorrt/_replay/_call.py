"""What a replay of a layer gets, the table of replays, and TensorRT's types in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from convkit.backends.tensorrt._network import ParsedLayer, ParsedTensor, Weights

__all__ = [
    "REPLAYS",
    "LayerCall",
    "NotReplayed",
    "Replay",
    "compute_dtype",
    "replays",
    "storage_dtype",
    "weights_tensor",
]

Replay = Callable[["LayerCall"], "torch.Tensor | Sequence[torch.Tensor]"]

REPLAYS: dict[str, Replay] = {}
"""The replay of each layer type; those of fills have the operation behind it.

Plugins, and loops and conditionals, which are more than one layer, are not among them.
"""

_STORAGE = {
    "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT8": torch.int8, "UINT8": torch.uint8,
    "INT32": torch.int32, "INT64": torch.int64, "BOOL": torch.bool, "FP8": torch.float8_e4m3fn,
}  # fmt: skip
_NARROW = ("HALF", "BF16")
_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class NotReplayed(Exception):  # noqa: N818 - it says what did not happen
    """A layer has no replay: its type, or something about it, is not known here."""


def replays(*types: str) -> Callable[[Replay], Replay]:
    """Enter a function as the replay of these layer types."""

    def enter(replay: Replay) -> Replay:
        for name in types:
            REPLAYS[name] = replay
        return replay

    return enter


def storage_dtype(name: str, *, wide: bool) -> torch.dtype:
    """Return the PyTorch type that holds values of a TensorRT type between layers.

    ``wide`` has float64 for the types that a network computes in (FLOAT, HALF, BF16), so that its results are those
    of exact arithmetic; types that quantisation makes keep their values.
    """
    if name == "FLOAT" or name in _NARROW:
        return torch.float64 if wide else _STORAGE[name]
    if name in ("FP8", "FP4", "E8M0"):
        return torch.float32
    if name == "INT4":
        return torch.int8
    if name not in _STORAGE:
        raise NotReplayed(f"values of type {name}")
    return _STORAGE[name]


def compute_dtype(name: str, *, wide: bool) -> torch.dtype:
    """Return the type that a layer computes in: float32 for 16-bit floating types, whose sums TensorRT keeps wide."""
    return torch.float32 if name in _NARROW and not wide else storage_dtype(name, wide=wide)


def weights_tensor(weights: Weights, *, wide: bool) -> torch.Tensor:
    """Return weights as a flat tensor of the type that computes."""
    name = weights.dtype
    if name in ("INT4", "FP4"):
        codes = torch.from_numpy(np.stack([weights.data & 15, weights.data >> 4], axis=-1).reshape(-1)[: weights.count])
        if name == "INT4":
            signed = codes.to(torch.int8)
            return torch.where(signed > 7, signed - 16, signed)
        magnitude = torch.tensor(_FP4)[(codes & 7).long()]
        return torch.where(codes > 7, -magnitude, magnitude)
    if name == "E8M0":
        return torch.exp2(torch.from_numpy(weights.data.astype(np.float32)) - 127)
    if name not in _STORAGE:
        raise NotReplayed(f"weights of type {name}")
    raw = torch.from_numpy(np.ascontiguousarray(weights.data).copy())
    values = raw.view(_STORAGE[name]) if raw.numel() else torch.empty(0, dtype=_STORAGE[name])
    return values.to(compute_dtype(name, wide=wide))


@dataclass(eq=False)
class LayerCall:
    """One layer that is about to run.

    ``inputs`` has None where the layer has no such input; 16-bit floating values come as float32. What the replay
    returns is rounded to the types of the layer's outputs.
    """

    layer: ParsedLayer
    inputs: Sequence[torch.Tensor | None]
    results: Sequence[ParsedTensor]
    sources: Sequence[ParsedTensor | None]
    wide: bool

    @property
    def x(self) -> torch.Tensor:
        """The first input."""
        return self.tensor(0)

    def tensor(self, position: int) -> torch.Tensor:
        """Return an input that has to be there."""
        value = self.optional(position)
        if value is None:
            raise NotReplayed(f"a layer without its input {position}")
        return value

    def optional(self, position: int) -> torch.Tensor | None:
        """Return an input, or None if the layer has no such input."""
        return self.inputs[position] if position < len(self.inputs) else None

    def integers(self, position: int, attribute: str = "") -> list[int]:
        """Return the numbers of an input or, where the layer lacks that, of an attribute."""
        value = self.optional(position)
        if value is not None:
            return [int(item) for item in value.reshape(-1).tolist()]
        numbers = self.attribute(attribute) if attribute else None
        if numbers is None:
            raise NotReplayed(f"a layer without {attribute or f'its input {position}'}")
        return [int(item) for item in numbers]

    def attribute(self, name: str) -> Any:
        """Return an attribute of the layer."""
        return self.layer.attributes[name]

    def axes(self, name: str = "axes") -> list[int]:
        """Return the axes of a bit mask."""
        mask = int(self.attribute(name))
        return [axis for axis in range(self.x.ndim) if mask >> axis & 1]

    def weights(self, name: str) -> torch.Tensor | None:
        """Return weights of the layer as a flat tensor, None where there are none."""
        weights = self.layer.weights[name]
        return weights_tensor(weights, wide=self.wide) if weights.count else None

    @property
    def dtype(self) -> torch.dtype:
        """The type that the first output is computed in."""
        return compute_dtype(self.results[0].dtype, wide=self.wide)

    def no_replay(self, what: str) -> NotReplayed:
        """Return the exception for something about this layer that has no replay."""
        return NotReplayed(what)
