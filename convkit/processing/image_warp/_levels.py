"""Normalisation of 8-bit levels without a table: lines whose rounded values are equal to those of the host."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["fit_levels", "line_values", "rounded", "two_lines"]

_DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24}


def fit_levels(levels: np.ndarray, dtype: str) -> tuple[int, np.ndarray]:
    """Return the kernel's constant LINES and its argument ``levels`` for levels (float32 [C, 256]) and a dtype.

    LINES is 1 where one line per channel, rounded to the dtype, is equal to all rounded levels, and 2 where the sum of
    two lines is. The argument is then float32 [C, 4]: a, b, c, d, and level v becomes ``v * a + b``, or
    ``(v * a + b) + (v * c + d)``, with fused multiply-adds. Otherwise LINES is 0 and the argument is ``levels``. Slope
    and intercept are chosen with the largest margin among those that round correctly. Of two lines, a and b have so few
    digits that the first sum is exact; c and d are the remainders.
    """
    wanted = rounded(levels, dtype)
    if not np.isfinite(wanted).all():
        return 0, levels
    middles = [_middle(channel, dtype) for channel in wanted]
    for count, rows in ((1, [(*middle, 0, 0) for middle in middles]), (2, [_split(*middle) for middle in middles])):
        lines = np.array(rows, np.float32)
        if np.array_equal(rounded(line_values(lines), dtype), wanted):
            return count, lines
    return 0, levels


def two_lines(levels: np.ndarray) -> np.ndarray:
    """Return two lines per channel [C, 4], fitted to levels of float32."""
    return np.array([_split(*_middle(channel, "float32")) for channel in levels], np.float32)


def line_values(lines: np.ndarray) -> np.ndarray:
    """Return the values of lines [C, 4] of `fit_levels` at each level: float32 [C, 256]."""
    a, b, c, d = (lines[:, index, None].astype(np.float64) for index in range(4))
    steps = np.arange(256.0)
    return (steps * a + b).astype(np.float32) + (steps * c + d).astype(np.float32)  # float64 for the fused steps


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 values rounded to a dtype, as float32."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return values.astype(dtype).astype(np.float32)
    bits = values.view(np.uint32)
    return np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def _middle(levels: np.ndarray, dtype: str) -> tuple[float, float]:
    """Return the slope and intercept with the largest margin among those whose values round to the levels."""
    steps, exact = np.arange(256.0), levels.astype(np.float64)
    room = np.spacing(np.abs(levels)).astype(np.float64) * 2.0 ** (_DIGITS["float32"] - _DIGITS[dtype] - 1)
    room = np.maximum(room, 1e-15 * np.abs(exact).max())

    def ends(slope: float) -> tuple[float, float]:
        rest = exact - slope * steps
        return float((rest - room).max()), float((rest + room).min())

    slope = (exact[-1] - exact[0]) / 255
    low, high = slope - 2 * room.max() / 255, slope + 2 * room.max() / 255
    for _ in range(100):  # the margin is a concave function of the slope
        third = (high - low) / 3
        (left, first), (right, last) = ends(low + third), ends(high - third)
        gain = (last - right) - (first - left)
        low, high = low + third * (gain >= 0), high - third * (gain <= 0)
    slope = (low + high) / 2
    return slope, sum(ends(slope)) / 2


def _split(slope: float, intercept: float) -> tuple[float, float, float, float]:
    """Return slope and intercept rounded to 23 bits of the largest value, then the remainder of each."""
    largest = 255 * abs(slope) + abs(intercept)
    unit = 2.0 ** (math.frexp(largest)[1] - 23) if largest else 1.0
    a, b = round(slope / unit) * unit, round(intercept / unit) * unit
    c, d = slope - a, intercept - b
    least = 2.0**-24 * unit  # so that zero levels remain zero
    return a, b, c if abs(c) > least else 0.0, d if abs(d) > least else 0.0
