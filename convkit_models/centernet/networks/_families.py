"""The families of networks: what tells them apart, and their official layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from convkit.errors import SettingError, suggest
from convkit_models.centernet.networks._dla_layout import DlaLayout, infer_dla
from convkit_models.centernet.networks._hourglass_layout import HourglassLayout, infer_hourglass
from convkit_models.centernet.networks._layout import Head, Layout
from convkit_models.centernet.networks._resnet_layout import BLOCKS, LAYERS, ResNetLayout, infer_resnet
from convkit_models.centernet.networks._widths import Widths

__all__ = ["ARCHITECTURES", "FAMILIES", "Family", "named"]


class _Official(Protocol):
    def __call__(self, family: str, depth: int, heads: Sequence[Head], width: float) -> Layout: ...


@dataclass(frozen=True)
class Family:
    """One or two families that share their layout.

    A checkpoint of it has the top-level names ``marks``; those beside its ``parts`` are heads. ``entries`` are names of
    tensors that each of its networks has.
    """

    architectures: tuple[str, ...]
    marks: frozenset[str]
    parts: frozenset[str]
    entries: tuple[str, ...]
    official: _Official
    infer: Callable[[Widths, Sequence[str]], Layout]


FAMILIES = (
    Family(
        architectures=tuple(f"{family}_{depth}" for family in ("res", "resdcn") for depth in BLOCKS),
        marks=frozenset({"layer1", "deconv_layers"}),
        parts=frozenset({"conv1", "bn1", *LAYERS, "deconv_layers"}),
        entries=(*(f"{layer}.0.conv1.weight" for layer in LAYERS), "deconv_layers.0.weight"),
        official=ResNetLayout.official,
        infer=infer_resnet,
    ),
    Family(
        architectures=("dla_34", "dlav0_34"),
        marks=frozenset({"base", "dla_up"}),
        parts=frozenset({"base", "dla_up", "ida_up"}),
        entries=(
            "base.base_layer.0.weight",
            "base.level2.root.conv.weight",
            "base.level5.root.conv.weight",
            "dla_up.ida_0.up_1.weight",
        ),
        official=DlaLayout.official,
        infer=infer_dla,
    ),
    Family(
        architectures=("hourglass",),
        marks=frozenset({"kps", "cnvs"}),
        parts=frozenset({"pre", "kps", "cnvs", "inters", "inters_", "cnvs_"}),
        entries=("pre.0.conv.weight", "kps.0.up1.0.conv1.weight", "kps.0.low1.0.conv1.weight", "cnvs.0.conv.weight"),
        official=HourglassLayout.official,
        infer=infer_hourglass,
    ),
)
ARCHITECTURES = tuple(name for family in FAMILIES for name in family.architectures)


def named(architecture: str, heads: Mapping[str, int], *, head_conv: int = 64, width: float = 1.0) -> Layout:
    """Return the official layout, with the trunk and upsampler widths multiplied by ``width``.

    ``heads`` maps output maps to channels, for example ``{"hm": 80, "wh": 2, "reg": 2}``; ``head_conv`` is the width
    inside each (officially 64 with a ResNet and 256 else).

    Raises:
        SettingError: there is no such architecture.
    """
    for family in FAMILIES:
        if architecture in family.architectures:
            name, _, depth = architecture.partition("_")
            made = [Head(head, channels, head_conv) for head, channels in heads.items()]
            return family.official(name, int(depth or 0), made, width)
    raise SettingError(
        f"There is no architecture {architecture!r}.",
        hint=suggest(architecture, ARCHITECTURES) or f"Known are {', '.join(ARCHITECTURES)}.",
    )
