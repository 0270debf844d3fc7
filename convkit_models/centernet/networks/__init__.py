"""The networks of CenterNet: layout, construction, and inference of both from a checkpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.networks._dla_layout import DlaLayout
from convkit_models.centernet.networks._families import ARCHITECTURES, FAMILIES, Family, named
from convkit_models.centernet.networks._hourglass_layout import HourglassLayout
from convkit_models.centernet.networks._infer import check_fit, infer_layout
from convkit_models.centernet.networks._layout import STRIDE, Head, Layout
from convkit_models.centernet.networks._resnet_layout import BLOCKS, ResNetLayout, Stage, Step

if TYPE_CHECKING:
    from convkit_models.centernet.networks._heads import CenterNetwork
    from convkit_models.centernet.networks._networks import build, expected_shapes, restore

_WITH_TORCH = {"_heads": ("CenterNetwork",), "_networks": ("build", "expected_shapes", "restore")}
"""What is imported when it is first used: an artifact runs where there is no torch."""

__all__ = [
    "ARCHITECTURES",
    "BLOCKS",
    "FAMILIES",
    "STRIDE",
    "CenterNetwork",
    "DlaLayout",
    "Family",
    "Head",
    "HourglassLayout",
    "Layout",
    "ResNetLayout",
    "Stage",
    "Step",
    "build",
    "check_fit",
    "expected_shapes",
    "infer_layout",
    "named",
    "restore",
]


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
