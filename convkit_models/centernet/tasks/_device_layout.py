"""How outputs lie in memory, as kernels of a decode take it: checks, distances, and the widest loads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from convkit.cuda import ArrayView, cdiv, itemsize
from convkit.errors import KernelArgumentError

__all__ = ["DENSE", "DTYPES", "LAYOUTS", "cell_step", "check_output", "dividers", "vector_of", "wanted"]

DTYPES = ("float32", "float16", "bfloat16")
"""The dtypes of outputs that the GPU decodes."""
DENSE = "Make it contiguous; maps may also be channels-last."
LAYOUTS = {"planes": 0, "cells": 1, "packed": 2}
"""The constant LAYOUT: [C, H, W], [H, W, C], or packed rows of reg, wh, logits and pooled logits."""
_MARGIN = 2**25  # values by which the indices of the last block may exceed a map


def wanted(
    outputs: Mapping[str, ArrayView], names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, ArrayView]:
    """Return the outputs of these names, and those of the optional ones that are there.

    Raises:
        KernelArgumentError: one is missing.
    """
    for name in names:
        if name not in outputs:
            raise KernelArgumentError(
                f"The output {name!r} is missing; there are {', '.join(map(repr, outputs)) or 'none'}."
            )
    return {name: outputs[name] for name in (*names, *optional) if name in outputs}


def check_output(name: str, tensor: ArrayView, first: ArrayView, *, rank: int) -> None:
    """Check one output; dtype and device must be those of the ``first`` one.

    Raises:
        KernelArgumentError: it has other ones, another number of axes, an empty one, or is too large.
    """
    if len(tensor.shape) != rank or 0 in tensor.shape:
        raise KernelArgumentError(f"{name!r} has the shape {list(tensor.shape)}; it needs {rank} axes, none empty.")
    if tensor.dtype not in DTYPES:
        raise KernelArgumentError(f"{name!r} is {tensor.dtype}; the GPU decodes {', '.join(DTYPES)}.")
    if tensor.dtype != first.dtype or tensor.device != first.device:
        raise KernelArgumentError(
            f"{name!r} is {tensor.dtype} on device {tensor.device}, another output {first.dtype} on {first.device}."
        )
    if min(tensor.strides) < 0:
        raise tensor.layout_error(name, DENSE)
    if max(tensor.extent(1), math.prod(tensor.shape[1:])) >= 2**31 - _MARGIN or tensor.shape[0] > 65535:
        raise KernelArgumentError(f"{name!r} is too large for 32-bit indices: its shape is {list(tensor.shape)}.")


def dividers(sizes: tuple[int, int, int], vector: int) -> list[int]:
    """Return multipliers and shifts that divide numbers below 2^31 by cells, width, and vectors of a cell."""
    classes, height, width = sizes
    found = []
    for divisor in (height * width, width, max(1, classes // vector)):
        shift = 31 + (divisor - 1).bit_length()
        found += [cdiv(1 << shift, divisor), shift]
    return found


def vector_of(tensor: ArrayView, numbers: Sequence[int]) -> int:
    """Return the number of values of one load: the address and each of the numbers are multiples of it."""
    size = itemsize(tensor.dtype)
    vector = 16 // size
    while any(number % vector for number in numbers) or tensor.address % (vector * size):
        vector //= 2
    return vector


def cell_step(name: str, tensor: ArrayView) -> int:
    """Return the distance in elements of two neighbours in a map, which must be the same from a row to the next."""
    _, _, height, width = tensor.shape
    step = tensor.strides[3] if width > 1 else tensor.strides[2]
    if height * width == 1:
        return 0
    if height > 1 and tensor.strides[2] != width * step:
        raise tensor.layout_error(name, DENSE)
    return step
