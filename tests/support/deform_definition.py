"""Deformable convolution v2 as its definition reads: loops over NumPy float64, nothing clever."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

Pair = Sequence[int]


def deform_conv2d_by_loops(
    x: np.ndarray,
    weight: np.ndarray,
    offset: np.ndarray,
    bias: np.ndarray,
    mask: np.ndarray,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> np.ndarray:
    """Return [N, O, oh, ow] in float64 for arrays laid out as in the operator."""
    x, weight, offset, bias, mask = (np.asarray(a, np.float64) for a in (x, weight, offset, bias, mask))
    batch, channels = x.shape[:2]
    filters, _, kh, kw = weight.shape
    oh, ow = offset.shape[2:]
    result = np.empty((batch, filters, oh, ow))
    for n, row, column in itertools.product(range(batch), range(oh), range(ow)):
        total = bias.copy()
        for c, i, j in itertools.product(range(channels), range(kh), range(kw)):
            tap = c // (channels // groups) * kh * kw + i * kw + j
            py = row * stride[0] - padding[0] + i * dilation[0] + offset[n, 2 * tap, row, column]
            px = column * stride[1] - padding[1] + j * dilation[1] + offset[n, 2 * tap + 1, row, column]
            total += weight[:, c, i, j] * mask[n, tap, row, column] * sample(x[n, c], py, px)
        result[n, :, row, column] = total
    return result


def sample(plane: np.ndarray, py: float, px: float) -> float:
    """Return ``plane`` [H, W] at a position, bilinearly, with zeros around it."""
    height, width = plane.shape
    if not (py > -1 and px > -1 and py < height and px < width):
        return 0.0
    y0, x0 = math.floor(py), math.floor(px)
    ly, lx = py - y0, px - x0
    value = 0.0
    for y, x, share in (
        (y0, x0, (1 - ly) * (1 - lx)),
        (y0, x0 + 1, (1 - ly) * lx),
        (y0 + 1, x0, ly * (1 - lx)),
        (y0 + 1, x0 + 1, ly * lx),
    ):
        if 0 <= y <= height - 1 and 0 <= x <= width - 1:
            value += share * plane[y, x]
    return value
