"""The networks of CenterNet: layout, construction, and inference of both from a checkpoint."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit_models.centernet.networks._infer import check_fit, infer_layout
from convkit_models.centernet.networks._layout import ARCHITECTURES, BLOCKS, STRIDE, Head, Layout, Stage, Step

if TYPE_CHECKING:
    from convkit_models.centernet.networks._networks import CenterNetwork, build, expected_shapes, restore

_WITH_TORCH = ("CenterNetwork", "build", "expected_shapes", "restore")
"""What is imported when it is first used: an artifact runs where there is no torch."""

__all__ = [
    "ARCHITECTURES",
    "BLOCKS",
    "STRIDE",
    "CenterNetwork",
    "Head",
    "Layout",
    "Stage",
    "Step",
    "build",
    "check_fit",
    "expected_shapes",
    "infer_layout",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}._networks"), name)
