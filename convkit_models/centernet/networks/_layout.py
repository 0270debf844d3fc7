"""The shape of a CenterNet with a ResNet trunk: every block count and channel width, without any weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convkit.errors import SettingError, suggest

__all__ = ["ARCHITECTURES", "BLOCKS", "STRIDE", "Head", "Layout", "Stage", "Step"]

STRIDE = 4
"""Input pixels per cell of the output maps, on both axes."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks in each of the four layers, by depth (He et al. 2016, table 1)."""

ARCHITECTURES = tuple(f"{family}_{depth}" for family in ("res", "resdcn") for depth in BLOCKS)

_PLANES = (64, 128, 256, 512)
_EXPANSION = 4
_STEP_WIDTHS = {"res": (256, 256, 256), "resdcn": (256, 128, 64)}


@dataclass(frozen=True)
class Stage:
    """One of ``layer1`` to ``layer4``.

    ``inner`` holds for each block the widths between its convolutions: one for a basic block, two
    for a bottleneck. ``out`` is the width that all its blocks return.
    """

    inner: tuple[tuple[int, ...], ...]
    out: int


@dataclass(frozen=True)
class Step:
    """One doubling of the resolution to ``out`` channels, after a deformable convolution to ``deform`` (0: none)."""

    deform: int
    out: int


@dataclass(frozen=True)
class Head:
    """One output map: its channels, and the width of the 3x3 convolution before it (0: a single 1x1)."""

    name: str
    channels: int
    hidden: int


@dataclass(frozen=True)
class Layout:
    """Everything that distinguishes one network of the families ``res`` and ``resdcn`` from another."""

    family: str
    depth: int
    stem: int
    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    heads: tuple[Head, ...]

    @property
    def architecture(self) -> str:
        """The official name, for example ``resdcn_18``."""
        return f"{self.family}_{self.depth}"

    @property
    def bottleneck(self) -> bool:
        """Whether the blocks have three convolutions rather than two."""
        return is_bottleneck(self.depth)

    @property
    def channels(self) -> dict[str, int]:
        """The channels of each output map."""
        return {head.name: head.channels for head in self.heads}

    @classmethod
    def named(cls, architecture: str, heads: Mapping[str, int], *, head_conv: int = 64, width: float = 1.0) -> Layout:
        """Return the official layout, with the trunk and upsampler widths multiplied by ``width``.

        ``heads`` maps output maps to channels, for example ``{"hm": 80, "wh": 2, "reg": 2}``.

        Raises:
            SettingError: there is no such architecture.
        """
        if architecture not in ARCHITECTURES:
            raise SettingError(
                f"There is no architecture {architecture!r}.",
                hint=suggest(architecture, ARCHITECTURES) or f"Known are {', '.join(ARCHITECTURES)}.",
            )
        family, number = architecture.split("_")
        depth = int(number)

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        return cls(
            family=family,
            depth=depth,
            stem=scaled(_PLANES[0]),
            stages=tuple(
                Stage(((scaled(planes),) * 2,) * count, scaled(planes * _EXPANSION))
                if is_bottleneck(depth)
                else Stage(((scaled(planes),),) * count, scaled(planes))
                for planes, count in zip(_PLANES, BLOCKS[depth], strict=True)
            ),
            steps=tuple(Step(scaled(w) if family == "resdcn" else 0, scaled(w)) for w in _STEP_WIDTHS[family]),
            heads=tuple(Head(name, channels, head_conv) for name, channels in heads.items()),
        )


def is_bottleneck(depth: int) -> bool:
    """Tell whether a ResNet of this depth is made of bottleneck blocks."""
    return depth >= 50
