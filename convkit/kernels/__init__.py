"""CUDA kernels: one source each, compiled by NVRTC, launched on anyone's arrays, and written for other hosts.

A kernel is a ``.cu`` file with an ``extern "C"`` entry point and a `Kernel` that declares it. ``kernel.variant(...)``
gives values to its constants, `load` returns what launches it, `compile_variant` its PTX or cubin.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit.kernels._cache import cache_folder
from convkit.kernels._compile import Image, Resources, check_bound, compile_variant
from convkit.kernels._declaration import Argument, Bound, Kernel, Launch, Variant, itemsize
from convkit.kernels._describe import describe, write_kernels
from convkit.kernels._launch import Launcher, load
from convkit.kernels._ptx import check_signature, parse_ptx
from convkit.kernels._source import flatten
from convkit.kernels._symbols import NUMBERS, Symbol, c_expression, cdiv, evaluate, maximum, minimum

if TYPE_CHECKING:
    from convkit.kernels._warp import IMAGE_RECORD, WARP, ImageWarp, image_row, image_table, warp_variants

_WARP = ("IMAGE_RECORD", "WARP", "ImageWarp", "image_row", "image_table", "warp_variants")
"""What is imported when it is first used, because it needs numpy."""

__all__ = [
    "IMAGE_RECORD",
    "NUMBERS",
    "WARP",
    "Argument",
    "Bound",
    "Image",
    "ImageWarp",
    "Kernel",
    "Launch",
    "Launcher",
    "Resources",
    "Symbol",
    "Variant",
    "c_expression",
    "cache_folder",
    "cdiv",
    "check_bound",
    "check_signature",
    "compile_variant",
    "describe",
    "evaluate",
    "flatten",
    "image_row",
    "image_table",
    "itemsize",
    "load",
    "maximum",
    "minimum",
    "parse_ptx",
    "warp_variants",
    "write_kernels",
]


def __getattr__(name: str) -> Any:
    if name not in _WARP:
        raise AttributeError(f"module 'convkit.kernels' has no attribute {name!r}")
    return getattr(import_module("convkit.kernels._warp"), name)
