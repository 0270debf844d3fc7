"""Why a node cannot become 16-bit: constants and values seen on samples that leave the range of the type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.graph.precision._types import Positions

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["Range", "unfit_constant", "unfit_scale", "unfit_values"]

_DIVISORS = {"Div": 1, "Log": 0, "Reciprocal": 0}
"""Operators that make an infinity of a value that becomes 0, with the input that this is."""


@dataclass(frozen=True)
class Range:
    """The values of a tensor over samples: the lowest, the highest, and the smallest magnitude that is not 0.

    ``smallest`` is infinite where all values are 0.
    """

    low: float
    high: float
    smallest: float

    @property
    def magnitude(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def joined(self, other: Range) -> Range:
        """Return the range of the values of both."""
        return Range(min(self.low, other.low), max(self.high, other.high), min(self.smallest, other.smallest))


def unfit_constant(node: gs.Node, positions: Positions, narrow: str) -> str:
    """Return why a constant of a node does not fit into 16 bits, or an empty string."""
    import onnx_graphsurgeon as gs

    dtype, limits = _dtype(narrow), _limits(narrow)
    constants = (node.inputs[place] for place in positions.inputs)
    for tensor in constants:
        if not isinstance(tensor, gs.Constant) or not tensor.values.size:
            continue
        values = np.asarray(tensor.values, np.float32)
        largest = np.abs(np.where(np.isfinite(values), values, 0)).max()
        with np.errstate(over="ignore", under="ignore"):
            rounded = largest.astype(dtype)
        if not np.isfinite(rounded):
            return f"{tensor.name} has {largest:.6g}, beyond {limits.max:.6g}"
        if largest and not rounded:
            return f"{tensor.name} has {largest:.3g} at most, which becomes 0"
        if largest and largest < limits.smallest_normal:
            return f"{tensor.name} has {largest:.3g} at most, which is subnormal in {narrow}"
    return ""


def unfit_values(node: gs.Node, positions: Positions, narrow: str, ranges: Mapping[str, Range]) -> str:
    """Return why the values that a node reads and makes do not fit into 16 bits, or an empty string."""
    limits = _limits(narrow)
    tensors = [node.inputs[place] for place in positions.inputs] + [node.outputs[place] for place in positions.outputs]
    for tensor in tensors:
        found = ranges.get(tensor.name)
        if found is None:
            continue
        if found.magnitude > float(limits.max):
            return f"{tensor.name} reaches {found.magnitude:.6g} on the samples, beyond {limits.max:.6g}"
        if 0 < found.magnitude < float(limits.smallest_normal):
            return f"{tensor.name} reaches {found.magnitude:.3g} at most on the samples, which is subnormal in {narrow}"
    return _vanishing_divisor(node, ranges, float(limits.smallest_subnormal) / 2)


def _vanishing_divisor(node: gs.Node, ranges: Mapping[str, Range], zero: float) -> str:
    """Return why a node makes or reads a divisor that becomes 0: magnitudes up to ``zero`` do."""
    divisions = [(reader, tensor) for tensor in node.outputs for reader in tensor.outputs]
    divisions += [(node, tensor) for tensor in node.inputs]
    for reader, tensor in divisions:
        place = _DIVISORS.get(reader.op)
        found = ranges.get(tensor.name)
        if place is not None and reader.inputs[place] is tensor and found is not None and found.smallest <= zero:
            return (
                f"{tensor.name} has {found.smallest:.3g} on the samples: {reader.op} {reader.name!r} would divide by 0"
            )
    return ""


def unfit_scale(values: np.ndarray, narrow: str) -> bool:
    """Return whether a scale of a quantisation overflows in 16 bits or becomes 0."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.asarray(values, np.float32).astype(_dtype(narrow)).astype(np.float32)
    return not bool(np.all(np.isfinite(rounded) & (rounded > 0)))


def _dtype(narrow: str) -> np.dtype[Any]:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if narrow == "bfloat16" else narrow)


def _limits(narrow: str) -> Any:
    import ml_dtypes

    return ml_dtypes.finfo(_dtype(narrow))  # type: ignore[no-untyped-call]
