"""The networks ``dla_34`` and ``dlav0_34`` of CenterNet, with the parameter names of its checkpoints.

A trunk of Deep Layer Aggregation (Yu et al. 2018), and its iterative upsampling: with deformable
convolutions and sums in ``dla``, with plain ones and concatenations in ``dlav0``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convkit_models.centernet._names import PRE_HM
from convkit_models.centernet.networks._dla_layout import BEFORE, FIRST, LEVELS, DlaLayout
from convkit_models.centernet.networks._heads import CenterNetwork, fill_bilinear, make_head, start_at_prior
from convkit_plugins.dcnv2 import DCN

__all__ = ["DlaNetwork"]


class DlaNetwork(CenterNetwork):
    """A DLA trunk with its upsampler."""

    def __init__(self, layout: DlaLayout) -> None:
        super().__init__(layout)
        channels = layout.levels[FIRST:]
        self.base = _Trunk(layout.levels, layout.before)
        if layout.family == "dla":
            self.dla_up = _DlaUp(channels, _SumUp)
            self.ida_up: _SumUp | None = _SumUp(channels[0], channels[:-1], [1 << i for i in range(len(channels) - 1)])
        else:
            self.dla_up = _DlaUp(channels, _ConcatUp)
            self.ida_up = None
        for head in layout.heads:
            self.add_module(head.name, make_head(channels[0], head))

    def forward(self, images: Tensor, *before: Tensor) -> list[dict[str, Tensor]]:
        """Return ``[{name: map}]`` in the order of the layout's heads; ``before`` are its other inputs."""
        maps = self.dla_up(self.base(images, *before)[FIRST:])
        if self.ida_up is not None:
            maps = self.ida_up(maps[:-1])
            return [self.apply_heads(maps[-1])]
        return [self.apply_heads(maps[0])]

    @torch.no_grad()
    def initialise(self) -> None:
        """Initialise trunk, upsampler and heads."""
        for module in self.base.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                fill_bilinear(module.weight)
        for name in self.head_names:
            head = self.get_submodule(name)
            if not start_at_prior(name, head):
                for conv in head.modules():
                    if isinstance(conv, nn.Conv2d):
                        assert conv.bias is not None
                        nn.init.zeros_(conv.bias)


class _Trunk(nn.Module):
    """Images to the maps of all levels; level i has the stride 2**i.

    What is known of the image before is added behind the first layer, through a layer of its own.
    """

    def __init__(self, channels: Sequence[int], before: Sequence[str] = ()) -> None:
        super().__init__()
        self.base_layer = _conv_norm_relu(3, channels[0], 7)
        self.before = tuple(BEFORE[name] for name in before)
        for name, layer in zip(before, self.before, strict=True):
            self.add_module(layer, _conv_norm_relu(1 if name == PRE_HM else 3, channels[0], 7))
        self.level0 = _conv_norm_relu(channels[0], channels[0], 3)
        self.level1 = _conv_norm_relu(channels[0], channels[1], 3, stride=2)
        for level in range(2, len(LEVELS)):
            tree = _Tree(LEVELS[level], channels[level - 1], channels[level], 2, keep_input=level > FIRST)
            self.add_module(f"level{level}", tree)

    def forward(self, images: Tensor, *before: Tensor) -> list[Tensor]:
        x = self.base_layer(images)
        for layer, tensor in zip(self.before, before, strict=True):
            x = x + self.get_submodule(layer)(tensor)
        maps = []
        for level in range(len(LEVELS)):
            x = self.get_submodule(f"level{level}")(x)
            maps.append(x)
        return maps


class _Tree(nn.Module):
    """Two blocks, or two lower trees, whose results are aggregated by a root.

    ``keep_input`` gives the downsampled input to the root as well. A tree of trees has a projection
    that its output does not depend on: the official code computes it, and checkpoints contain it.
    """

    def __init__(
        self, height: int, width: int, out: int, stride: int = 1, *, keep_input: bool = False, roots: int = 0
    ) -> None:
        super().__init__()
        roots = (roots or 2 * out) + (width if keep_input else 0)
        self.tree1: nn.Module
        self.tree2: nn.Module
        if height == 1:
            self.tree1, self.tree2 = _Block(width, out, stride), _Block(out, out, 1)
            self.root: _Root | None = _Root(roots, out)
        else:
            self.tree1 = _Tree(height - 1, width, out, stride)
            self.tree2 = _Tree(height - 1, out, out, roots=roots + out)
            self.root = None
        self.keep_input = keep_input
        self.downsample = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.project = (
            nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)) if width != out else nn.Identity()
        )

    def forward(self, x: Tensor, children: Sequence[Tensor] = ()) -> Tensor:
        bottom = self.downsample(x)
        children = (*children, bottom) if self.keep_input else children
        if self.root is None:
            first = self.tree1(x)
            result: Tensor = self.tree2(first, (*children, first))
            return result
        first = self.tree1(x, self.project(bottom))
        second = self.tree2(first, first)
        joined: Tensor = self.root(torch.cat([second, first, *children], dim=1))
        return joined


class _Block(nn.Module):
    """Two 3x3 convolutions, added to a residual that the caller gives."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + residual
        return torch.relu_(x)


class _Root(nn.Module):
    """A 1x1 convolution over the concatenated results of a tree."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 1, bias=False)
        self.bn = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.bn(self.conv(x)))
        return result


class _Deform(nn.Module):
    """A deformable convolution, then BatchNorm and ReLU; the official code registers these first."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.actf = nn.Sequential(nn.BatchNorm2d(out), nn.ReLU(inplace=True))
        self.conv = DCN(width, out, kernel_size=3, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.actf(self.conv(x))
        return result


class _SumUp(nn.Module):
    """Bring maps of falling resolution to the first one's, one after the other, and add each to the one before it."""

    def __init__(self, out: int, channels: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        for index in range(1, len(channels)):
            self.add_module(f"proj_{index}", _Deform(channels[index], out))
            self.add_module(f"up_{index}", _upsample(out, factors[index]))
            self.add_module(f"node_{index}", _Deform(out, out))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the first map and each of the sums."""
        results = [maps[0]]
        for index, x in enumerate(maps[1:], 1):
            x = self.get_submodule(f"up_{index}")(self.get_submodule(f"proj_{index}")(x))
            results.append(self.get_submodule(f"node_{index}")(x + results[-1]))
        return results


class _ConcatUp(nn.Module):
    """As `_SumUp`, with plain convolutions over the concatenation of a map with the result before it."""

    def __init__(self, out: int, channels: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        for index, (width, factor) in enumerate(zip(channels, factors, strict=True)):
            same = width == out
            self.add_module(f"proj_{index}", nn.Identity() if same else _conv_norm_relu(width, out, 1))
            self.add_module(f"up_{index}", nn.Identity() if factor == 1 else _upsample(out, factor))
        for index in range(1, len(channels)):
            self.add_module(f"node_{index}", _conv_norm_relu(2 * out, out, 3))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the first map and each of the results."""
        results: list[Tensor] = []
        for index, x in enumerate(maps):
            x = self.get_submodule(f"up_{index}")(self.get_submodule(f"proj_{index}")(x))
            results.append(self.get_submodule(f"node_{index}")(torch.cat([results[-1], x], dim=1)) if results else x)
        return results


class _DlaUp(nn.Module):
    """Aggregate the maps of all levels, from the deepest up, into one of each resolution."""

    def __init__(self, channels: Sequence[int], kind: type[_SumUp] | type[_ConcatUp]) -> None:
        super().__init__()
        widths, steps = list(channels), [1 << level for level in range(len(channels))]
        for number in range(len(channels) - 1):
            first = len(channels) - 2 - number
            factors = [step // steps[first] for step in steps[first:]]
            self.add_module(f"ida_{number}", kind(channels[first], widths[first:], factors))
            widths[first + 1 :] = [channels[first]] * (len(channels) - first - 1)
            steps[first + 1 :] = [steps[first]] * (len(channels) - first - 1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the last result of each aggregation, the finest first, and the deepest map."""
        current = list(maps)
        results = [current[-1]]
        for number in range(len(maps) - 1):
            first = len(maps) - 2 - number
            current[first:] = self.get_submodule(f"ida_{number}")(current[first:])
            results.insert(0, current[-1])
        return results


def _upsample(channels: int, factor: int) -> nn.ConvTranspose2d:
    """Return the depthwise interpolation by a factor, whose kernel is trained."""
    return nn.ConvTranspose2d(channels, channels, 2 * factor, factor, padding=factor // 2, groups=channels, bias=False)


def _conv_norm_relu(width: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))
