"""The network of any layout: built afresh, or from the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from convkit_models.centernet.networks._dla import DlaNetwork
from convkit_models.centernet.networks._dla_layout import DlaLayout
from convkit_models.centernet.networks._heads import CenterNetwork
from convkit_models.centernet.networks._hourglass import HourglassNetwork
from convkit_models.centernet.networks._hourglass_layout import HourglassLayout
from convkit_models.centernet.networks._layout import Layout
from convkit_models.centernet.networks._resnet import ResNetNetwork
from convkit_models.centernet.networks._resnet_layout import ResNetLayout

__all__ = ["build", "expected_shapes", "restore"]

_CLASSES: dict[type[Layout], Callable[[Any], CenterNetwork]] = {
    ResNetLayout: ResNetNetwork,
    DlaLayout: DlaNetwork,
    HourglassLayout: HourglassNetwork,
}


def build(layout: Layout) -> CenterNetwork:
    """Return a fresh network in train mode, initialised as the official code does for training.

    Trunks that the official code takes from ImageNet get He's initialisation instead.
    Random numbers come from torch's global generator.
    """
    network = _CLASSES[type(layout)](layout)
    network.initialise()
    return network


def expected_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry that a checkpoint of this layout holds."""
    return {name: tuple(tensor.shape) for name, tensor in _empty(layout).state_dict().items()}


def restore(layout: Layout, state: Mapping[str, Tensor]) -> CenterNetwork:
    """Return the network in eval mode with ``state`` as its weights: the tensors themselves, not copies.

    Raises:
        RuntimeError: ``state`` has not exactly the entries of `expected_shapes`.
    """
    network = _empty(layout)
    network.load_state_dict(dict(state), strict=True, assign=True)
    return network.eval()


def _empty(layout: Layout) -> CenterNetwork:
    """Return the network without memory for its weights."""
    with torch.device("meta"):
        return _CLASSES[type(layout)](layout)
