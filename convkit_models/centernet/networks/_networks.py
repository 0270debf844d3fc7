"""The networks ``res_*`` and ``resdcn_*`` of CenterNet, with the parameter names of its checkpoints.

A ResNet trunk (He et al. 2016), three steps that each double the resolution, and one small head for
each output map (Zhou et al. 2019, "Objects as Points").
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from convkit_models.centernet.networks._layout import Head, Layout, Stage
from convkit_plugins.dcnv2 import DCN

__all__ = ["CenterNetwork", "build", "expected_shapes", "restore"]

HEATMAP_PRIOR = -2.19
"""Initial bias of heat map heads: sigmoid(-2.19) = 0.1, so that the focal loss starts out calm."""


class CenterNetwork(nn.Module):
    """Images [B, 3, H, W] to a list of one dict: each head's raw map, [B, channels, H/4, W/4].

    H and W are multiples of 32. The list is for the stacks of other families; these have one.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.head_names = tuple(head.name for head in layout.heads)
        self.conv1 = nn.Conv2d(3, layout.stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(layout.stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        first, second, third, fourth = layout.stages
        self.layer1 = _layer(layout.stem, first, stride=1)
        self.layer2 = _layer(first.out, second, stride=2)
        self.layer3 = _layer(second.out, third, stride=2)
        self.layer4 = _layer(third.out, fourth, stride=2)
        self.deconv_layers = _upsampler(fourth.out, layout)
        for head in layout.heads:
            self.add_module(head.name, _head(layout.steps[-1].out, head))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return ``[{name: map}]`` in the order of the layout's heads; no map has passed a sigmoid."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.deconv_layers(x)
        return [{name: self.get_submodule(name)(x) for name in self.head_names}]


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the input."""

    def __init__(self, width: int, inner: tuple[int, ...], out: int, stride: int) -> None:
        super().__init__()
        (middle,) = inner
        self.conv1 = nn.Conv2d(width, middle, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(width, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + residual
        return torch.relu_(x)


class _Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3 (which has the stride) and 1x1, added to the input."""

    def __init__(self, width: int, inner: tuple[int, ...], out: int, stride: int) -> None:
        super().__init__()
        first, second = inner
        self.conv1 = nn.Conv2d(width, first, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(width, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x)) + residual
        return torch.relu_(x)


def _shortcut(width: int, out: int, stride: int) -> nn.Sequential | None:
    """Return the projection of a residual whose shape the block changes, else None."""
    if stride == 1 and width == out:
        return None
    return nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def _layer(width: int, stage: Stage, stride: int) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for inner in stage.inner:
        block = _BasicBlock if len(inner) == 1 else _Bottleneck
        blocks.append(block(width, inner, stage.out, stride))
        width, stride = stage.out, 1
    return nn.Sequential(*blocks)


def _upsampler(width: int, layout: Layout) -> nn.Sequential:
    """Return the flat sequence ``deconv_layers``: [DCN, BN, ReLU,] transposed convolution, BN, ReLU for each step."""
    modules: list[nn.Module] = []
    for step in layout.steps:
        if step.deform:
            deform = DCN(width, step.deform, kernel_size=3, stride=1, padding=1)
            modules += [deform, nn.BatchNorm2d(step.deform), nn.ReLU(inplace=True)]
            width = step.deform
        up = nn.ConvTranspose2d(width, step.out, 4, stride=2, padding=1, bias=False)
        modules += [up, nn.BatchNorm2d(step.out), nn.ReLU(inplace=True)]
        width = step.out
    return nn.Sequential(*modules)


def _head(width: int, head: Head) -> nn.Module:
    if not head.hidden:
        return nn.Conv2d(width, head.channels, 1)
    return nn.Sequential(
        nn.Conv2d(width, head.hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(head.hidden, head.channels, 1)
    )


def build(layout: Layout) -> CenterNetwork:
    """Return a fresh network in train mode, initialised as the official code does for training.

    The trunk, which the official code takes from ImageNet, gets He's initialisation instead.
    Random numbers come from torch's global generator.
    """
    network = CenterNetwork(layout)
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        for module in network.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for module in network.deconv_layers:
        if isinstance(module, nn.ConvTranspose2d):
            if layout.family == "res":
                nn.init.normal_(module.weight, std=0.001)
            else:
                _fill_bilinear(module.weight)
    for head in layout.heads:
        _initialise_head(network.get_submodule(head.name), head, layout.family)
    return network


def _initialise_head(module: nn.Module, head: Head, family: str) -> None:
    convs = [conv for conv in module.modules() if isinstance(conv, nn.Conv2d)]
    if "hm" in head.name:
        assert convs[-1].bias is not None
        nn.init.constant_(convs[-1].bias, HEATMAP_PRIOR)
        return
    for conv in convs[-1:] if family == "res" else convs:
        nn.init.normal_(conv.weight, std=0.001)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)


@torch.no_grad()
def _fill_bilinear(weight: Tensor) -> None:
    """Write the bilinear kernel into ``weight[c, 0]`` for every c: the official code fills no other plane."""
    size = weight.shape[-1]
    factor = math.ceil(size / 2)
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    ramp = 1 - (torch.arange(size) / factor - centre).abs()
    weight[:, 0] = torch.outer(ramp, ramp)


def expected_shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry that a checkpoint of this layout holds."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in CenterNetwork(layout).state_dict().items()}


def restore(layout: Layout, state: Mapping[str, Tensor]) -> CenterNetwork:
    """Return the network in eval mode with ``state`` as its weights: the tensors themselves, not copies.

    Raises:
        RuntimeError: ``state`` has not exactly the entries of `expected_shapes`.
    """
    with torch.device("meta"):
        network = CenterNetwork(layout)
    network.load_state_dict(dict(state), strict=True, assign=True)
    return network.eval()
