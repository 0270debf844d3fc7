"""The layout of ``dla_34`` and ``dlav0_34``: six levels of Deep Layer Aggregation, whose widths decide all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convkit_models.centernet._names import INPUT, PRE_HM, PRE_IMAGES
from convkit_models.centernet.networks._layout import Head, Layout
from convkit_models.centernet.networks._widths import Widths

__all__ = ["BEFORE", "FIRST", "LEVELS", "DlaLayout", "infer_dla"]

LEVELS = (1, 1, 1, 2, 2, 1)
"""The height of the tree in each level (Yu et al. 2018, DLA-34); level i has the stride 2**i."""
FIRST = 2
"""The level whose stride the output maps have."""

BEFORE = {PRE_IMAGES: "pre_img_layer", PRE_HM: "pre_hm_layer"}
"""The first layer of the trunk for each input of CenterTrack's besides the images."""
_CHANNELS = (16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class DlaLayout(Layout):
    """Everything that distinguishes one network of the families ``dla`` and ``dlav0`` from another.

    ``dla`` upsamples with deformable convolutions and adds; ``dlav0`` with plain ones and concatenates.
    """

    family: str
    levels: tuple[int, ...]
    heads: tuple[Head, ...]
    before: tuple[str, ...] = ()
    """What the trunk takes besides the images, in CenterTrack: ``pre_images``, ``pre_hm``."""

    @property
    def architecture(self) -> str:
        """``dla_34`` or ``dlav0_34``."""
        return f"{self.family}_34"

    @property
    def multiple(self) -> int:
        """The stride of the last level."""
        return 32

    @property
    def deformable(self) -> int:
        """Two for each of the eight projections of ``dla``, none in ``dlav0``."""
        if self.family != "dla":
            return 0
        rest = len(self.levels) - FIRST
        return 2 * (rest * (rest - 1) // 2 + rest - 2)

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of the six levels."""
        return self.levels

    @property
    def inputs(self) -> tuple[str, ...]:
        """The images, and what the trunk takes besides."""
        return (INPUT, *self.before)

    @classmethod
    def official(cls, family: str, depth: int, heads: Sequence[Head], width: float = 1.0) -> DlaLayout:
        """Return the official layout, with the widths of the levels multiplied by ``width``."""
        del depth  # 34 is the only one
        return cls(family, tuple(max(1, round(channels * width)) for channels in _CHANNELS), tuple(heads))


def infer_dla(known: Widths, heads: Sequence[str]) -> DlaLayout:
    """Return the layout nearest to the shapes, with these heads."""
    family = "dla" if any(name.startswith("ida_up.") for name in known.shapes) else "dlav0"
    prefixes: list[tuple[str, ...]] = [(f"base.level{level}.",) for level in range(len(LEVELS))]
    prefixes[0] = ("base.base_layer.", *prefixes[0])
    levels = (known.below(default, *names) for default, names in zip(_CHANNELS, prefixes, strict=True))
    before = (name for name, layer in BEFORE.items() if any(key.startswith(f"base.{layer}.") for key in known.shapes))
    return DlaLayout(family, tuple(levels), tuple(known.head(name) for name in heads), tuple(before))
