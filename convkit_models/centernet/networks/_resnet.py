"""The networks ``res_*`` and ``resdcn_*`` of CenterNet, with the parameter names of its checkpoints.

A ResNet trunk (He et al. 2016), three steps that each double the resolution, and one small head for
each output map (Zhou et al. 2019, "Objects as Points").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convkit_models.centernet.networks._heads import CenterNetwork, fill_bilinear, make_head, start_at_prior
from convkit_models.centernet.networks._resnet_layout import LAYERS, ResNetLayout, Stage
from convkit_plugins.dcnv2 import DCN

__all__ = ["ResNetNetwork"]


class ResNetNetwork(CenterNetwork):
    """A ResNet with an upsampler of transposed convolutions, in ``resdcn`` with deformable ones before them."""

    def __init__(self, layout: ResNetLayout) -> None:
        super().__init__(layout)
        self.layout = layout
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
            self.add_module(head.name, make_head(layout.steps[-1].out, head))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return ``[{name: map}]`` in the order of the layout's heads."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return [self.apply_heads(self.deconv_layers(x))]

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise trunk, upsampler and heads."""
        for name in ("conv1", *LAYERS):
            for module in self.get_submodule(name).modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        plain = self.layout.family == "res"
        for module in self.deconv_layers:
            if isinstance(module, nn.ConvTranspose2d):
                if plain:
                    nn.init.normal_(module.weight, std=0.001)
                else:
                    fill_bilinear(module.weight)
        for name in self.head_names:
            head = self.get_submodule(name)
            if not start_at_prior(name, head):
                convs = [conv for conv in head.modules() if isinstance(conv, nn.Conv2d)]
                for conv in convs[-1:] if plain else convs:
                    nn.init.normal_(conv.weight, std=0.001)
                    assert conv.bias is not None
                    nn.init.zeros_(conv.bias)


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


def _upsampler(width: int, layout: ResNetLayout) -> nn.Sequential:
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
