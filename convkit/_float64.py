"""PyTorch in float64 on the CPU, in less memory and time.

PyTorch computes a convolution in float64 by copying a patch of the input for every pixel of the output, all at once:
75 MB for 64 channels at 128x128. `in_strips` lets it do that for a few rows at a time, which stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["in_strips"]

STRIP = 2 << 20
"""Bytes of the patches that are copied at once."""
PIXELS = 1024
"""Pixels of the output in a strip at least: with fewer, the weights are read more often than the patches."""


def in_strips() -> AbstractContextManager[Any]:
    """Return a context in which this thread's convolutions of float64 on the CPU are computed in strips of rows.

    Each strip is PyTorch's own convolution, and every pixel the same sum. What is no large convolution, or is
    differentiated, is left as it is.
    """
    return _Strips()


class _Strips(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not types:  # no tensors of other classes
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``torch.conv2d`` of the same arguments."""
    plain = input.dtype == torch.float64 and input.device.type == "cpu" and input.dim() == weight.dim() == 4
    if not plain or isinstance(padding, str) or torch.is_grad_enabled():
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    (step, _), (above, beside), (gap, _) = (_pair(value) for value in (stride, padding, dilation))
    height, (rows, columns) = input.shape[2], weight.shape[2:]
    reach = gap * (rows - 1) + 1
    high = (height + 2 * above - reach) // step + 1
    wide = (input.shape[3] + 2 * beside - _pair(dilation)[1] * (columns - 1) - 1) // _pair(stride)[1] + 1
    row = 8 * math.prod(weight.shape[1:]) * wide
    tall = max(STRIP // max(row, 1), -(-PIXELS // max(wide, 1)))
    if rows * columns == 1 or min(high, wide) < 1 or 2 * tall > high:
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    output = input.new_empty((input.shape[0], weight.shape[0], high, wide))
    for start in range(0, high, tall):
        count = min(tall, high - start)
        first = start * step - above
        last = first + (count - 1) * step + reach
        strip = input[:, :, max(first, 0) : max(last, 0)]
        missing = max(-first, 0) - max(-last, 0), max(last - max(height, first), 0)
        if any(missing):
            strip = F.pad(strip, (0, 0, *missing))
        output[:, :, start : start + count] = torch.conv2d(strip, weight, bias, stride, (0, beside), dilation, groups)
    return output


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(value, Sequence):
        return value[0], value[-1]
    return int(value), int(value)  # PyTorch takes the integers of NumPy too
