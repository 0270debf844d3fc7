"""The network ``hourglass`` of CenterNet, with the parameter names of its checkpoints.

Hourglass-104 (Newell et al. 2016, Law and Deng 2018): two stacks, each a recursive network that
halves the resolution five times and returns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convkit_models.centernet.networks._heads import CenterNetwork, start_at_prior
from convkit_models.centernet.networks._hourglass_layout import HourglassLayout
from convkit_models.centernet.networks._layout import Head

__all__ = ["HourglassNetwork"]


class HourglassNetwork(CenterNetwork):
    """Stacks of hourglasses. In eval mode only the heads of the last stack are computed."""

    def __init__(self, layout: HourglassLayout) -> None:
        super().__init__(layout)
        width, between = layout.dims[0], layout.stacks - 1
        self.pre = nn.Sequential(_Convolution(3, layout.stem, 7, stride=2), _Residual(layout.stem, width, stride=2))
        self.kps = nn.ModuleList(_Hourglass(layout.dims, layout.blocks) for _ in range(layout.stacks))
        self.cnvs = nn.ModuleList(_Convolution(width, layout.features, 3) for _ in range(layout.stacks))
        self.inters = nn.ModuleList(_Residual(width, width) for _ in range(between))
        self.inters_ = nn.ModuleList(_projection(width, width) for _ in range(between))
        self.cnvs_ = nn.ModuleList(_projection(layout.features, width) for _ in range(between))
        for head in layout.heads:
            self.add_module(head.name, nn.ModuleList(_head(layout.features, head) for _ in range(layout.stacks)))

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Return one ``{name: map}`` a stack, in eval mode that of the last stack only."""
        x = self.pre(images)
        results = []
        last = len(self.kps) - 1
        for stack, (hourglass, convolution) in enumerate(zip(self.kps, self.cnvs, strict=True)):
            features = convolution(hourglass(x))
            if self.training or stack == last:
                results.append({name: self.get_submodule(f"{name}.{stack}")(features) for name in self.head_names})
            if stack < last:
                x = self.inters[stack](torch.relu(self.inters_[stack](x) + self.cnvs_[stack](features)))
        return results

    @torch.no_grad()
    def initialise(self) -> None:
        """Give heat maps their prior; all else is PyTorch's default."""
        for name in self.head_names:
            for stack in self.get_submodule(name).children():
                start_at_prior(name, stack)


class _Convolution(nn.Module):
    """A convolution with BatchNorm, or else with a bias, and a ReLU."""

    def __init__(self, width: int, out: int, kernel: int, stride: int = 1, *, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, stride, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.bn(self.conv(x)))
        return result


class _Residual(nn.Module):
    """Two 3x3 convolutions, added to the input or to a projection of it."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.skip = nn.Sequential() if stride == 1 and width == out else _projection(width, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.skip(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x)) + residual
        return torch.relu_(x)


class _Hourglass(nn.Module):
    """One level: a path at its resolution, and one at half of it that contains the next level."""

    def __init__(self, dims: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        (here, below), count = dims[:2], blocks[0]
        self.up1 = _residuals(here, here, count)
        self.low1 = _residuals(here, below, count, stride=2)
        self.low2: nn.Module = (
            _Hourglass(dims[1:], blocks[1:]) if len(dims) > 2 else _residuals(below, below, blocks[1])
        )
        self.low3 = nn.Sequential(*(_Residual(below, below) for _ in range(count - 1)), _Residual(below, here))
        self.up2 = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.up1(x) + self.up2(self.low3(self.low2(self.low1(x))))
        return result


def _residuals(width: int, out: int, count: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_Residual(width, out, stride), *(_Residual(out, out) for _ in range(count - 1)))


def _projection(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def _head(width: int, head: Head) -> nn.Sequential:
    return nn.Sequential(_Convolution(width, head.hidden, 3, norm=False), nn.Conv2d(head.hidden, head.channels, 1))
