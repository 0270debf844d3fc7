"""DCNv2 in TensorRT: a plugin whose kernel lies in the plan, one that takes the standard node, and what proves them.

What takes PyTorch's tensors is loaded when it is first used: a process that runs an engine may do without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit_plugins.dcnv2.tensorrt._aot import register_aot
    from convkit_plugins.dcnv2.tensorrt._aot_kernels import FORMATS, Launch, launches, size_scalars, views
    from convkit_plugins.dcnv2.tensorrt._aot_reference import packed_deform_conv, replay_aot
    from convkit_plugins.dcnv2.tensorrt._aot_settings import DOMAIN, FIELDS, OP_TYPE, AotSettings, WeightOrder
    from convkit_plugins.dcnv2.tensorrt._creator import make_plugin_classes, register_creator
    from convkit_plugins.dcnv2.tensorrt._packing import pack, packed_size, unpack
    from convkit_plugins.dcnv2.tensorrt._ptx import aot_ptx, check_driver, local_gpu, newest_ptx, ptx_target
    from convkit_plugins.dcnv2.tensorrt._reference import deform_conv

__all__ = [
    "DOMAIN",
    "FIELDS",
    "FORMATS",
    "OP_TYPE",
    "AotSettings",
    "Launch",
    "WeightOrder",
    "aot_ptx",
    "check_driver",
    "deform_conv",
    "launches",
    "local_gpu",
    "make_plugin_classes",
    "newest_ptx",
    "pack",
    "packed_deform_conv",
    "packed_size",
    "ptx_target",
    "register_aot",
    "register_creator",
    "replay_aot",
    "size_scalars",
    "unpack",
    "views",
]

_HOMES = {
    "_aot": ("register_aot",),
    "_aot_kernels": ("FORMATS", "Launch", "launches", "size_scalars", "views"),
    "_aot_reference": ("packed_deform_conv", "replay_aot"),
    "_aot_settings": ("DOMAIN", "FIELDS", "OP_TYPE", "AotSettings", "WeightOrder"),
    "_creator": ("make_plugin_classes", "register_creator"),
    "_packing": ("pack", "packed_size", "unpack"),
    "_ptx": ("aot_ptx", "check_driver", "local_gpu", "newest_ptx", "ptx_target"),
    "_reference": ("deform_conv",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
