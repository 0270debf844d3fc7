"""The layout of ``res_*`` and ``resdcn_*``: a ResNet trunk and three steps that each double the resolution."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from convkit_models.centernet.networks._layout import Head, Layout
from convkit_models.centernet.networks._widths import Shape, Widths, norm

__all__ = ["BLOCKS", "LAYERS", "ResNetLayout", "Stage", "Step", "infer_resnet"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Residual blocks in each of the four layers, by depth (He et al. 2016, table 1)."""
LAYERS = ("layer1", "layer2", "layer3", "layer4")

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
class ResNetLayout(Layout):
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
    def multiple(self) -> int:
        """The stride of the trunk."""
        return 32

    @property
    def deformable(self) -> int:
        """One of each step in ``resdcn``, none in ``res``."""
        return sum(step.deform > 0 for step in self.steps)

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of the stem, the four layers and the three steps."""
        return (self.stem, *(stage.out for stage in self.stages), *(step.out for step in self.steps))

    @property
    def bottleneck(self) -> bool:
        """Whether the blocks have three convolutions rather than two."""
        return _is_bottleneck(self.depth)

    @classmethod
    def official(cls, family: str, depth: int, heads: Sequence[Head], width: float = 1.0) -> ResNetLayout:
        """Return the official layout, with the trunk and upsampler widths multiplied by ``width``."""

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        return cls(
            family=family,
            depth=depth,
            stem=scaled(_PLANES[0]),
            stages=tuple(
                Stage(((scaled(planes),) * 2,) * count, scaled(planes * _EXPANSION))
                if _is_bottleneck(depth)
                else Stage(((scaled(planes),),) * count, scaled(planes))
                for planes, count in zip(_PLANES, BLOCKS[depth], strict=True)
            ),
            steps=tuple(Step(scaled(w) if family == "resdcn" else 0, scaled(w)) for w in _STEP_WIDTHS[family]),
            heads=tuple(heads),
        )


def infer_resnet(known: Widths, heads: Sequence[str]) -> ResNetLayout:
    """Return the layout nearest to the shapes, with these heads."""
    family = "resdcn" if any(".conv_offset_mask." in name for name in known.shapes) else "res"
    depth = _depth(known.shapes)
    official = ResNetLayout.official(family, depth, ())
    return ResNetLayout(
        family=family,
        depth=depth,
        stem=known.conv(official.stem, "conv1", "bn1", ("layer1.0.conv1.weight", 1)),
        stages=tuple(_stage(known, layer, stage) for layer, stage in zip(LAYERS, official.stages, strict=True)),
        steps=_steps(known, official),
        heads=tuple(known.head(name) for name in heads),
    )


def _is_bottleneck(depth: int) -> bool:
    return depth >= 50


def _depth(shapes: Mapping[str, Shape]) -> int:
    """Return the depth whose number of blocks is nearest, among those with the same kind of block."""
    counts = [len({m[1] for name in shapes if (m := re.match(rf"{layer}\.(\d+)\.", name))}) for layer in LAYERS]
    bottleneck = any(re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name) for name in shapes)
    return min(
        (depth for depth in BLOCKS if _is_bottleneck(depth) == bottleneck),
        key=lambda depth: sum(abs(have - want) for have, want in zip(counts, BLOCKS[depth], strict=True)),
    )


def _stage(known: Widths, layer: str, official: Stage) -> Stage:
    inner = []
    outs = [(f"{layer}.0.downsample.0.weight", 0), *norm(f"{layer}.0.downsample.1")]
    for index, widths in enumerate(official.inner):
        block, last = f"{layer}.{index}", len(widths) + 1
        inner.append(
            tuple(
                known.conv(default, f"{block}.conv{i}", f"{block}.bn{i}", (f"{block}.conv{i + 1}.weight", 1))
                for i, default in enumerate(widths, 1)
            )
        )
        outs += [(f"{block}.conv{last}.weight", 0), *norm(f"{block}.bn{last}")]
        outs += [(f"{layer}.{index + 1}.conv1.weight", 1)]
    return Stage(tuple(inner), known.width(official.out, *outs))


def _steps(known: Widths, official: ResNetLayout) -> tuple[Step, ...]:
    steps = []
    modules = 6 if official.family == "resdcn" else 3
    for number, default in enumerate(official.steps):
        at = "deconv_layers.{}".format
        first, deform = number * modules, 0
        if default.deform:
            deform = known.conv(default.deform, at(first), at(first + 1), (f"{at(first + 3)}.weight", 0))
            first += 3
        steps.append(Step(deform, known.width(default.out, (f"{at(first)}.weight", 1), *norm(at(first + 1)))))
    return tuple(steps)
