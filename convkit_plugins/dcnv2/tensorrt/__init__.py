"""DCNv2 in TensorRT: a plugin whose kernel is in the plan, its packed weights, and its reference in PyTorch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convkit_plugins.dcnv2.tensorrt._aot import register_aot
    from convkit_plugins.dcnv2.tensorrt._aot_kernels import FORMATS, Launch, launches, size_scalars, views
    from convkit_plugins.dcnv2.tensorrt._aot_reference import packed_deform_conv, replay_aot
    from convkit_plugins.dcnv2.tensorrt._aot_settings import DOMAIN, OP_TYPE, AotSettings, WeightOrder
    from convkit_plugins.dcnv2.tensorrt._packing import pack, packed_size, unpack
    from convkit_plugins.dcnv2.tensorrt._ptx import aot_ptx, check_driver, local_gpu, newest_ptx, ptx_target

__all__ = [
    "DOMAIN",
    "FORMATS",
    "OP_TYPE",
    "AotSettings",
    "Launch",
    "WeightOrder",
    "aot_ptx",
    "check_driver",
    "launches",
    "local_gpu",
    "newest_ptx",
    "pack",
    "packed_deform_conv",
    "packed_size",
    "ptx_target",
    "register_aot",
    "replay_aot",
    "size_scalars",
    "unpack",
    "views",
]

_HOMES = {
    "_aot": ("register_aot",),
    "_aot_kernels": ("FORMATS", "Launch", "launches", "size_scalars", "views"),
    "_aot_reference": ("packed_deform_conv", "replay_aot"),
    "_aot_settings": ("DOMAIN", "OP_TYPE", "AotSettings", "WeightOrder"),
    "_packing": ("pack", "packed_size", "unpack"),
    "_ptx": ("aot_ptx", "check_driver", "local_gpu", "newest_ptx", "ptx_target"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
