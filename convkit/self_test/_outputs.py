"""Faults in the outputs of an engine: a proof that lets one of them pass proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from convkit.model import TensorSpec

__all__ = ["OUTPUT_FAULTS", "OutputFault", "changes_nothing", "plant_output"]


@dataclass(frozen=True)
class OutputFault:
    """A mistake that converters make, as a function of one output (batch on axis 0)."""

    name: str
    cause: str
    change: Callable[[np.ndarray, TensorSpec], np.ndarray]


def plant_output(fault: OutputFault, value: np.ndarray, output: TensorSpec) -> np.ndarray:
    """Return the output as an engine with this fault would give it, in its own dtype."""
    spoilt: np.ndarray = fault.change(value, output).astype(value.dtype)
    return spoilt


def changes_nothing(fault: OutputFault, output: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Tell whether the fault leaves any tensor of this shape as it is: channels moved where there is one."""
    rng = np.random.default_rng(0)
    if np.issubdtype(np.dtype(output.host_dtype), np.floating):
        probe = rng.standard_normal(shape).astype(output.host_dtype)
    else:
        probe = rng.integers(1, 100, shape).astype(output.host_dtype)
    return bool(np.array_equal(plant_output(fault, probe, output), probe))


def _channels(value: np.ndarray, output: TensorSpec) -> np.ndarray:
    """Move every channel by one: axis 1, or the columns of rows that are compared after decoding."""
    axis = value.ndim - 1 if output.compare == "results" else min(1, value.ndim - 1)
    return np.roll(value, 1, axis)


def _clamped(value: np.ndarray, output: TensorSpec) -> np.ndarray:
    """Cut off the largest tenth of the range."""
    low, high = float(value.min()), float(value.max())
    clamped: np.ndarray = value.copy()
    clamped[value > low + 0.9 * (high - low)] = low + 0.9 * (high - low)
    return clamped


def _not_finite(value: np.ndarray, output: TensorSpec) -> np.ndarray:
    """Spoil one element; integers, which have no NaN, get their lowest value."""
    spoilt: np.ndarray = value.copy()
    floating = np.issubdtype(value.dtype, np.floating)
    spoilt.flat[value.size // 2] = np.nan if floating else np.iinfo(value.dtype).min
    return spoilt


OUTPUT_FAULTS: tuple[OutputFault, ...] = (
    OutputFault("channels moved", "the order of channels was mixed up", _channels),
    OutputFault("negated", "a sign was lost", lambda value, output: -value),
    OutputFault(
        "scaled by 1.001", "a constant was rounded, such as an epsilon or a mean", lambda value, output: value * 1.001
    ),
    OutputFault("clamped", "an activation saturates too early", _clamped),
    OutputFault(
        "in half precision",
        "the engine computes in float16 without being asked to",
        lambda value, output: value.astype(np.float16),
    ),
    OutputFault("not a number", "an overflow or a division by zero", _not_finite),
    OutputFault("left at zero", "an output was never written", lambda value, output: np.zeros_like(value)),
    OutputFault(
        "samples mixed up", "results of a batch belong to other images", lambda value, output: np.roll(value, 1, 0)
    ),
)
