"""DCNv2 in TensorRT: a plugin that takes the standard ``DeformConv`` node, and its reference in PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from convkit_plugins.dcnv2.tensorrt._creator import make_plugin_classes, register_creator

if TYPE_CHECKING:
    from convkit_plugins.dcnv2.tensorrt._reference import deform_conv

__all__ = ["deform_conv", "make_plugin_classes", "register_creator"]


def __getattr__(name: str) -> Any:
    if name == "deform_conv":  # only the replay has PyTorch, a process that runs an engine may not
        from convkit_plugins.dcnv2.tensorrt._reference import deform_conv

        return deform_conv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
