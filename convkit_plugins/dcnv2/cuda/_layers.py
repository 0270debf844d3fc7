"""What the CUDA kernels of the deformable convolution are told of a layer and of the memory of its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Layer", "Layout"]


@dataclass(frozen=True)
class Layer:
    """The settings of a layer. Pairs are (vertical, horizontal); ``padding`` is what precedes the image."""

    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class Layout(NamedTuple):
    """How a tensor [N, C, H, W] lies in memory: its sizes, and its strides in elements in the same order."""

    shape: Sequence[int]
    strides: Sequence[int]
