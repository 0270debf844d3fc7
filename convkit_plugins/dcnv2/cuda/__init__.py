"""The CUDA kernels of DCNv2: choice, packing, tuning, launch."""

from convkit_plugins.dcnv2.cuda._cuda import convolve, kernel_for
from convkit_plugins.dcnv2.cuda._hopper import (
    CALL_CONSTANTS,
    HOPPER,
    LAYOUT_SCALARS,
    TILE_W,
    call_constants,
    hopper_serves,
    hopper_variant,
    hopper_variants,
    layout_scalars,
    problem_of,
)
from convkit_plugins.dcnv2.cuda._layers import Layer, Layout
from convkit_plugins.dcnv2.cuda._outputs import empty_output, memory_format
from convkit_plugins.dcnv2.cuda._plain import (
    PLAIN,
    Tile,
    can_load_four,
    pack_plain,
    plain_scalars,
    plain_variants,
    tile_for,
)
from convkit_plugins.dcnv2.cuda._search import best_tactic
from convkit_plugins.dcnv2.cuda._tactics import (
    CHUNK,
    PATCH,
    Problem,
    Tactic,
    candidates,
    fits,
    producer_registers,
    shared_bytes,
)
from convkit_plugins.dcnv2.cuda._tensor import (
    TENSOR,
    Division,
    division_for,
    tensor_serves,
    tensor_variant,
    tensor_variants,
)
from convkit_plugins.dcnv2.cuda._weights import PackedWeights, pack_for_mma, pack_for_plain, pack_for_wgmma

__all__ = [
    "CALL_CONSTANTS",
    "CHUNK",
    "HOPPER",
    "LAYOUT_SCALARS",
    "PATCH",
    "PLAIN",
    "TENSOR",
    "TILE_W",
    "Division",
    "Layer",
    "Layout",
    "PackedWeights",
    "Problem",
    "Tactic",
    "Tile",
    "best_tactic",
    "call_constants",
    "can_load_four",
    "candidates",
    "convolve",
    "division_for",
    "empty_output",
    "fits",
    "hopper_serves",
    "hopper_variant",
    "hopper_variants",
    "kernel_for",
    "layout_scalars",
    "memory_format",
    "pack_for_mma",
    "pack_for_plain",
    "pack_for_wgmma",
    "pack_plain",
    "plain_scalars",
    "plain_variants",
    "problem_of",
    "producer_registers",
    "shared_bytes",
    "tensor_serves",
    "tensor_variant",
    "tensor_variants",
    "tile_for",
]
