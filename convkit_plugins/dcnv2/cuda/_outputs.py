"""The form of the operators' output tensors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["empty_output", "memory_format"]


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format of the output: on a GPU channels-last if ``x`` is that and not contiguous."""
    if x.device.type != "cuda" or x.is_contiguous():
        return torch.contiguous_format
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def empty_output(x: Tensor, filters: int, size: tuple[int, int]) -> Tensor:
    """Return an uninitialised output [N, O, oh, ow] for an input."""
    return torch.empty((x.shape[0], filters, *size), dtype=x.dtype, device=x.device, memory_format=memory_format(x))
