"""Deformable convolution v2 as its definition reads: loops over NumPy float64, nothing clever.

The channels of a group are sampled at the same positions, and all pixels for a tap at once.
"""

from __future__ import annotations

import itertools
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
    rows, columns = np.indices(offset.shape[2:])
    result = np.empty((batch, filters, *rows.shape))
    for n in range(batch):
        result[n] = bias[:, None, None]
        for group, i, j in itertools.product(range(groups), range(kh), range(kw)):
            tap = (group * kh + i) * kw + j
            members = slice(group * channels // groups, (group + 1) * channels // groups)
            py = rows * stride[0] - padding[0] + i * dilation[0] + offset[n, 2 * tap]
            px = columns * stride[1] - padding[1] + j * dilation[1] + offset[n, 2 * tap + 1]
            samples = mask[n, tap] * sample(x[n, members], py, px)
            result[n] += np.einsum("oc,chw->ohw", weight[:, members, i, j], samples)
    return result


def sample(planes: np.ndarray, py: np.ndarray, px: np.ndarray) -> np.ndarray:
    """Return ``planes`` [C, H, W] at positions, bilinearly, with zeros around them, as [C, *positions]."""
    height, width = planes.shape[1:]
    inside = (py > -1) & (px > -1) & (py < height) & (px < width)  # NaN is not
    py, px = np.where(inside, py, 0), np.where(inside, px, 0)
    y0, x0 = np.floor(py).astype(int), np.floor(px).astype(int)
    ly, lx = py - y0, px - x0
    value = np.zeros((len(planes), *py.shape))
    for y, x, share in (
        (y0, x0, (1 - ly) * (1 - lx)),
        (y0, x0 + 1, (1 - ly) * lx),
        (y0 + 1, x0, ly * (1 - lx)),
        (y0 + 1, x0 + 1, ly * lx),
    ):
        there = inside & (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
        value[:, there] += share[there] * planes[:, y[there], x[there]]
    return value
