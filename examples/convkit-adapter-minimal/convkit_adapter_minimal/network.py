"""The network, as somebody's research code might have it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["SIZE", "DigitNet"]

SIZE = 8
"""Height and width of the input in pixels, those of scikit-learn's digits."""


def hard_swish(x: torch.Tensor) -> torch.Tensor:
    """Return ``x * relu6(x + 3) / 6``, spelled out as in the first MobileNetV3 codes (Howard et al. 2019)."""
    return x * nn.functional.relu6(x + 3) / 6


class Block(nn.Module):
    """A 3x3 convolution, batch norm and hard-swish."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the activation."""
        return hard_swish(self.norm(self.conv(x)))


class DigitNet(nn.Module):
    """Blocks of the given widths, the second and every later one halving the picture; then a linear layer."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        channels = [1, *widths]
        self.blocks = nn.Sequential(
            *(Block(channels[i], channels[i + 1], stride=2 if i else 1) for i in range(len(widths)))
        )
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the ``logits`` [B, classes] and the ``embedding`` [B, widths[-1]] of images [B, 1, 8, 8] in 0..1."""
        embedding = self.blocks(images).mean((2, 3))
        return {"logits": self.head(embedding), "embedding": embedding}
