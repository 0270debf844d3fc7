"""The layout of ``hourglass``: stacks of a recursive network that halves the resolution several times and returns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from convkit_models.centernet.networks._layout import STRIDE, Head, Layout
from convkit_models.centernet.networks._widths import Widths, norm

__all__ = ["HourglassLayout", "infer_hourglass"]

_STEM = 128
_DIMS = (256, 256, 384, 384, 384, 512)
_BLOCKS = (2, 2, 2, 2, 2, 4)
_FEATURES = 256
_STACKS = 2


@dataclass(frozen=True)
class HourglassLayout(Layout):
    """Everything that distinguishes one hourglass from another.

    ``dims`` are the widths from the full resolution (stride 4) down, ``blocks`` the residual blocks
    on each path of a level, and at the bottom. ``features`` is the width that the heads get.
    """

    stacks: int
    stem: int
    dims: tuple[int, ...]
    blocks: tuple[int, ...]
    features: int
    heads: tuple[Head, ...]

    @property
    def architecture(self) -> str:
        """``hourglass``."""
        return "hourglass"

    @property
    def multiple(self) -> int:
        """The stride at the bottom: 128 in the official network."""
        return STRIDE << (len(self.dims) - 1)

    @property
    def deformable(self) -> int:
        """None."""
        return 0

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of the stem, of each level down to the bottom, and of the heads' input."""
        return (self.stem, *self.dims, self.features)

    @classmethod
    def official(cls, family: str, depth: int, heads: Sequence[Head], width: float = 1.0) -> HourglassLayout:
        """Return the official layout, with all widths but those of the heads multiplied by ``width``."""
        del family, depth

        def scaled(channels: int) -> int:
            return max(1, round(channels * width))

        dims = tuple(scaled(channels) for channels in _DIMS)
        return cls(_STACKS, scaled(_STEM), dims, _BLOCKS, scaled(_FEATURES), tuple(heads))


def infer_hourglass(known: Widths, heads: Sequence[str]) -> HourglassLayout:
    """Return the layout nearest to the shapes, with these heads."""
    stacks = known.count(r"kps\.(\d+)\.") or _STACKS
    depth = 1
    while any(name.startswith(f"kps.0{'.low2' * depth}.low1.") for name in known.shapes):
        depth += 1
    levels = [[f"kps.{stack}{'.low2' * level}" for stack in range(stacks)] for level in range(depth + 1)]
    dims = [known.below(_FEATURES, *(f"{path}.up1." for path in paths)) for paths in levels[:-1]]
    blocks = [_most_blocks(known, [f"{path}.{way}" for path in paths for way in _WAYS]) for paths in levels[:-1]]
    return HourglassLayout(
        stacks=stacks,
        stem=known.conv(_STEM, "pre.0.conv", "pre.0.bn", ("pre.1.conv1.weight", 1)),
        dims=(*dims, known.below(_FEATURES, *(f"{path}." for path in levels[-1]))),
        blocks=(*blocks, _most_blocks(known, levels[-1])),
        features=known.width(
            _FEATURES,
            *((f"cnvs.{stack}.conv.weight", 0) for stack in range(stacks)),
            *(vote for stack in range(stacks) for vote in norm(f"cnvs.{stack}.bn")),
        ),
        heads=tuple(_head(known, name, stacks) for name in heads),
    )


_WAYS = ("up1", "low1", "low3")


def _most_blocks(known: Widths, paths: Sequence[str]) -> int:
    """Return how many residual blocks most of these sequences have."""
    counts = [known.count(re.escape(path) + r"\.(\d+)\.") for path in paths]
    return Counter(count for count in counts if count).most_common(1)[0][0] if any(counts) else 1


def _head(known: Widths, name: str, stacks: int) -> Head:
    """Return a head, of which each stack has a copy."""
    first, last = ([f"{name}.{stack}.{part}" for stack in range(stacks)] for part in ("0.conv", "1"))
    return Head(
        name,
        channels=known.width(1, *((f"{path}.{part}", 0) for path in last for part in ("weight", "bias"))),
        hidden=known.width(
            1,
            *((f"{path}.{part}", 0) for path in first for part in ("weight", "bias")),
            *((f"{path}.weight", 1) for path in last),
        ),
    )
