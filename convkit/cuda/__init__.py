"""CUDA kernels: declare, compile with NVRTC, launch on arrays of any library, describe for other hosts.

A kernel is a ``.cu`` file with an ``extern "C"`` entry point and a `Kernel` that declares it. ``kernel.variant(...)``
assigns values to its constants, `load` returns its launcher, `compile_variant` its PTX or cubin. `upload` and
`allocate` return memory that a device side keeps for itself.
"""

from __future__ import annotations

from convkit.cuda._array_view import ArrayView
from convkit.cuda._cache import cache_folder
from convkit.cuda._compile import CompiledKernel, Resources, check_limit, compile_variant, nvrtc_version
from convkit.cuda._declaration import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, itemsize
from convkit.cuda._describe import describe, write_kernels
from convkit.cuda._device import find_device
from convkit.cuda._launch import Launcher, current_stream, load
from convkit.cuda._memory import DeviceStandIn, allocate, clear, stand_in, upload
from convkit.cuda._ptx import check_signature, parse_ptx
from convkit.cuda._source import flatten
from convkit.cuda._symbols import NUMBERS, Symbol, c_expression, cdiv, evaluate, maximum, minimum

__all__ = [
    "NUMBERS",
    "Argument",
    "ArrayView",
    "CompiledKernel",
    "DeviceStandIn",
    "Kernel",
    "LaunchConfig",
    "Launcher",
    "ResourceLimit",
    "Resources",
    "Symbol",
    "Variant",
    "allocate",
    "c_expression",
    "cache_folder",
    "cdiv",
    "check_limit",
    "check_signature",
    "clear",
    "compile_variant",
    "current_stream",
    "describe",
    "evaluate",
    "find_device",
    "flatten",
    "itemsize",
    "load",
    "maximum",
    "minimum",
    "nvrtc_version",
    "parse_ptx",
    "stand_in",
    "upload",
    "write_kernels",
]
