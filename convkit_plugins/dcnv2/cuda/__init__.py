"""The CUDA kernels of DCNv2: which one serves a call, its tuning, packed weights, and the launch.

What takes PyTorch's tensors is loaded when it is first used: other hosts of the kernels do without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from convkit_plugins.dcnv2.cuda._hopper import HOPPER, hopper_serves, hopper_variant, problem_of
from convkit_plugins.dcnv2.cuda._layers import LAYOUT_SCALARS, Layer, layout_scalars
from convkit_plugins.dcnv2.cuda._pack import PACK, Packing
from convkit_plugins.dcnv2.cuda._plain import PLAIN, PLAIN_SCALARS, TILES, Tile, can_load_four, plain_scalars, tile_for
from convkit_plugins.dcnv2.cuda._tactics import PATCH, Problem, Tactic, candidates, fits, registers
from convkit_plugins.dcnv2.cuda._tensor import TENSOR, Division, division_for, tensor_serves, tensor_variant

if TYPE_CHECKING:
    from convkit_plugins.dcnv2.cuda._cuda import convolve, kernel_for
    from convkit_plugins.dcnv2.cuda._outputs import empty_output, memory_format
    from convkit_plugins.dcnv2.cuda._weights import pack_for_mma, pack_for_plain, pack_for_wgmma

__all__ = [
    "HOPPER",
    "LAYOUT_SCALARS",
    "PACK",
    "PATCH",
    "PLAIN",
    "PLAIN_SCALARS",
    "TENSOR",
    "TILES",
    "Division",
    "Layer",
    "Packing",
    "Problem",
    "Tactic",
    "Tile",
    "can_load_four",
    "candidates",
    "convolve",
    "division_for",
    "empty_output",
    "fits",
    "hopper_serves",
    "hopper_variant",
    "kernel_for",
    "layout_scalars",
    "memory_format",
    "pack_for_mma",
    "pack_for_plain",
    "pack_for_wgmma",
    "plain_scalars",
    "problem_of",
    "registers",
    "tensor_serves",
    "tensor_variant",
    "tile_for",
]

_WITH_TORCH = {
    "_cuda": ("convolve", "kernel_for"),
    "_outputs": ("empty_output", "memory_format"),
    "_weights": ("pack_for_mma", "pack_for_plain", "pack_for_wgmma"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
