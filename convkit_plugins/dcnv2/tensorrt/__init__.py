"""DCNv2 in TensorRT: a plugin that takes the standard ``DeformConv`` node, and its reference in PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit_plugins.dcnv2.tensorrt._creator import make_plugin_classes, register_creator
    from convkit_plugins.dcnv2.tensorrt._reference import deform_conv

__all__ = ["deform_conv", "make_plugin_classes", "register_creator"]

_HOMES = {
    "_creator": ("make_plugin_classes", "register_creator"),
    "_reference": ("deform_conv",),
}
"""Where names are loaded from when they are first used: a process that runs an engine may have no PyTorch."""


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
