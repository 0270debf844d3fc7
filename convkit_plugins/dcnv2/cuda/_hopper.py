"""The Hopper kernel of the modulated deformable convolution: float16 and bfloat16 on compute capability 9.0.

``kernels/hopper.cu`` computes the operator in one launch with the tensor cores. This module contains its declaration,
which layers it serves, and the variant for a layer and a tactic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv
from convkit_plugins.dcnv2.cuda._layers import CALL_CONSTANTS, LAYOUT_SCALARS, Layer, call_constants
from convkit_plugins.dcnv2.cuda._tactics import PATCH, Problem, Registers, Tactic, candidates, tactic_constants

__all__ = ["HOPPER", "hopper_serves", "hopper_variant", "problem_of"]


def _launch_config(
    batch: Any,
    out_height: Any,
    out_width: Any,
    multiprocessors: Any,
    N: int,  # noqa: N803 - named as constants
    TILE_N: int,  # noqa: N803
    TILE_W: int,  # noqa: N803
    PATCHES: int,  # noqa: N803
    PRODUCERS: int,  # noqa: N803
    CLUSTER_M: int,  # noqa: N803
    CLUSTER_K: int,  # noqa: N803
    BLOCKS_PER_SM: int,  # noqa: N803
    SHARED: int,  # noqa: N803
) -> LaunchConfig:
    """Return a grid with a block per set of patches, or as many blocks as run at a time with equally many sets each."""
    columns = -(-N // TILE_N)
    blocks = cdiv(batch * cdiv(out_height, PATCH // TILE_W) * cdiv(out_width, TILE_W), PATCHES)
    if CLUSTER_K == 1:
        at_once = (multiprocessors * BLOCKS_PER_SM + columns - 1) // columns
        blocks = cdiv(blocks, cdiv(blocks, at_once))
    grid = (cdiv(blocks, CLUSTER_M) * CLUSTER_M, columns, CLUSTER_K)
    return LaunchConfig(grid, ((PRODUCERS + 2) * 128, 1, 1), SHARED, BLOCKS_PER_SM)


HOPPER = Kernel(
    name="convkit_dcnv2_hopper",
    source=Path(__file__).parent / "kernels" / "hopper.cu",
    arguments=(
        Argument("x", "T", alignment=16),
        Argument("offset", "T"),
        Argument("mask", "T"),
        Argument("weight", "T", alignment=16),
        Argument("bias", "T"),
        Argument("out", "T", output=True, alignment=16),
        *(Argument(name, "int32", pointer=False) for name in LAYOUT_SCALARS),
    ),
    sizes=("batch", "out_height", "out_width", "multiprocessors"),
    launch_config=_launch_config,
    constants=(
        *CALL_CONSTANTS,
        "SHARED",
        *(f"{name.upper()}_REGISTERS" for name in Registers._fields),
        *(name.upper() for name in Tactic._fields),
    ),
    min_compute_capability=90,
    # 255 registers and a few spills are faster than smaller tiles.
    limit=ResourceLimit(registers=255, static_smem_bytes=0, spill_bytes=160),
    arch_specific=True,
)
"""The kernel. Its constants are those of `call_constants` and of `tactic_constants`."""


def hopper_serves(layer: Layer, dtype: str, x_shape: Sequence[int]) -> bool:
    """Return whether the kernel can compute a layer for ``x`` [N, C, H, W] in channels-last memory.

    There are then tactics for blending in float16 as well as in float32, which takes more shared memory.
    """
    _, channels, height, width = x_shape
    return (
        dtype in ("float16", "bfloat16")
        and channels % 8 == 0
        and channels // layer.groups % 8 == 0
        and min(height, width) >= 2
        and bool(candidates(problem_of(layer, channels, 1, blend_fp32=True), 1))
    )


def problem_of(layer: Layer, channels: int, pixels: int, *, blend_fp32: bool) -> Problem:
    """Return what the choice of a tactic depends on, for so many output pixels of the whole batch."""
    return Problem(channels, layer.filters, layer.taps, layer.groups, pixels, blend_fp32)


def hopper_variant(
    layer: Layer,
    dtype: str,
    channels: int,
    tactic: Tactic,
    *,
    sigmoid: bool,
    relu: bool = False,
    planes: bool = False,
    blend_fp32: bool = True,
) -> Variant:
    """Return the variant for a layer and a tactic that fits; the other arguments are those of `call_constants`."""
    call = call_constants(layer, dtype, channels, sigmoid=sigmoid, relu=relu, planes=planes, blend_fp32=blend_fp32)
    return HOPPER.variant(**call, **tactic_constants(tactic, problem_of(layer, channels, 1, blend_fp32=blend_fp32)))
