"""What all networks share: a class that returns output maps, the small network of each map, and its initialisation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from convkit_models.centernet.networks._layout import Head, Layout

__all__ = ["HEATMAP_PRIOR", "CenterNetwork", "fill_bilinear", "make_head", "start_at_prior"]

HEATMAP_PRIOR = -2.19
"""Initial bias of heat map heads: sigmoid(-2.19) = 0.1, so that the focal loss starts out calm."""


class CenterNetwork(nn.Module, ABC):
    """Images [B, 3, H, W] to a list of dicts, one a stack: each head's raw map, [B, channels, H/4, W/4].

    H and W are multiples of the layout's ``multiple``. The last dict is the result; a network with several stacks
    returns the others in train mode only, for their losses.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.head_names = tuple(head.name for head in layout.heads)

    @abstractmethod
    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return ``[{name: map}]`` in the order of the layout's heads; no map has passed a sigmoid."""

    @abstractmethod
    def initialise(self) -> None:
        """Initialise as the official code does for training, but for the weights that it takes from ImageNet."""

    def apply_heads(self, features: Tensor) -> dict[str, Tensor]:
        """Return the map of each head that is a direct child of the network."""
        return {name: self.get_submodule(name)(features) for name in self.head_names}


def make_head(width: int, head: Head) -> nn.Module:
    """Return the network of an output map on features of that width."""
    if not head.hidden:
        return nn.Conv2d(width, head.channels, 1)
    return nn.Sequential(
        nn.Conv2d(width, head.hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(head.hidden, head.channels, 1)
    )


def start_at_prior(name: str, module: nn.Module) -> bool:
    """Give the last convolution of a heat map head its initial bias; return whether the head is one."""
    if "hm" not in name:
        return False
    last = [conv for conv in module.modules() if isinstance(conv, nn.Conv2d)][-1]
    assert last.bias is not None
    nn.init.constant_(last.bias, HEATMAP_PRIOR)
    return True


@torch.no_grad()
def fill_bilinear(weight: Tensor) -> None:
    """Write the bilinear kernel into ``weight[c, 0]`` for every c: the official code fills no other plane."""
    size = weight.shape[-1]
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    ramp = 1 - (torch.arange(size) / factor - centre).abs()
    weight[:, 0] = torch.outer(ramp, ramp)
