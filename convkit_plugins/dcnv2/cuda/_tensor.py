"""The tensor-core kernel of the modulated deformable convolution for compute capability 8.0 and newer.

``kernels/tensor.cu`` computes the operator in one launch: float16, bfloat16, and float32 as TF32. It needs at most
48 KiB of shared memory and no cluster, which is what TensorRT can launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv, itemsize
from convkit_plugins.dcnv2.cuda._layers import CALL_CONSTANTS, LAYOUT_SCALARS, Layer, call_constants

__all__ = ["TENSOR", "Division", "division_for", "tensor_serves", "tensor_variant"]

_SMEM_LIMIT = 48 * 1024
"""Dynamic shared memory in bytes that a launch may have by default; TensorRT does not raise it."""


class Division(NamedTuple):
    """One division of the work. Each field in upper case is a macro of ``tensor.cu``.

    tile_n: output channels of a block, a multiple of 32.
    warps_m: warps of a block that have 16 pixels each.
    warps_k: warps that divide the sum over channels and taps of the same pixels.
    stages: groups of ``warps_k`` tiles of weights in shared memory at a time, 2 or more.
    """

    tile_n: int
    warps_m: int
    warps_k: int
    stages: int


def _launch_config(
    batch: Any,
    out_height: Any,
    out_width: Any,
    N: int,  # noqa: N803 - named as constants
    TILE_N: int,  # noqa: N803
    TILE_W: int,  # noqa: N803
    WARPS_M: int,  # noqa: N803
    WARPS_K: int,  # noqa: N803
    SHARED: int,  # noqa: N803
) -> LaunchConfig:
    patches = batch * cdiv(out_height, 16 * WARPS_M // TILE_W) * cdiv(out_width, TILE_W)
    return LaunchConfig((patches, -(-N // TILE_N), 1), (WARPS_M * WARPS_K * 32, 1, 1), SHARED)


TENSOR = Kernel(
    name="convkit_dcnv2_tensor",
    source=Path(__file__).parent / "kernels" / "tensor.cu",
    arguments=(
        Argument("x", "T", alignment=16),
        Argument("offset", "T"),
        Argument("mask", "T"),
        Argument("weight", "T", alignment=16),
        Argument("bias", "T"),
        Argument("out", "T", output=True),
        *(Argument(name, "int32", pointer=False) for name in LAYOUT_SCALARS),
    ),
    sizes=("batch", "out_height", "out_width"),
    launch_config=_launch_config,
    constants=(*CALL_CONSTANTS, "TF32", "SHARED", *(name.upper() for name in Division._fields)),
    min_compute_capability=80,
    limit=ResourceLimit(registers=255, static_smem_bytes=0),
)
"""The kernel. Its constants are those of `call_constants`, TF32 (float32), and the fields of a `Division`."""


def tensor_serves(layer: Layer, dtype: str, x_shape: Sequence[int]) -> bool:
    """Return whether the kernel can compute a layer for ``x`` [N, C, H, W] in channels-last memory."""
    _, channels, height, width = x_shape
    piece = 16 // itemsize(dtype)
    return (
        dtype in ("float32", "float16", "bfloat16")
        and channels % piece == 0
        and channels // layer.groups % piece == 0
        and min(height, width) >= 2
        and division_for(layer, 1) is not None
    )


def division_for(layer: Layer, pixels: int, multiprocessors: int = 108) -> Division | None:
    """Return a division for so many output pixels of the whole batch, or None if shared memory is too small for any.

    Few pixels are spread over more blocks, and the sum over more warps of a block.
    """
    for tile_n in (128, 64, 32) if layer.filters > 64 else (64, 32) if layer.filters > 32 else (32,):
        for warps_m in (4, 2, 1):
            blocks = pixels / (16 * warps_m) * -(-layer.filters // tile_n)
            if blocks < multiprocessors and (warps_m > 1 or tile_n > 32):
                continue
            for warps_k in (4, 2, 1) if blocks < 2 * multiprocessors else (2, 1):
                for stages in (3, 2):
                    division = Division(tile_n, warps_m, warps_k, stages)
                    if warps_m * warps_k <= 8 and _shared(division, layer) <= _SMEM_LIMIT:
                        return division
    return None


def _shared(division: Division, layer: Layer) -> int:
    """Return the dynamic shared memory of a block in bytes; ``tensor.cu`` lays it out and checks this number."""
    samples = layer.groups * layer.taps * 16 * division.warps_m * (16 + 4)
    tiles = division.stages * division.warps_k * division.tile_n * 128
    return max(tiles + samples, division.warps_m * 16 * division.tile_n * 4 if division.warps_k > 1 else 0)


def tensor_variant(
    layer: Layer,
    dtype: str,
    channels: int,
    division: Division,
    *,
    sigmoid: bool,
    relu: bool = False,
    planes: bool = False,
    blend_fp32: bool = True,
) -> Variant:
    """Return the variant for a layer and a division; the other arguments are those of `call_constants`."""
    call = call_constants(layer, dtype, channels, sigmoid=sigmoid, relu=relu, planes=planes, blend_fp32=blend_fp32)
    return TENSOR.variant(
        **call,
        TF32=dtype == "float32",
        SHARED=_shared(division, layer),
        **{name.upper(): value for name, value in division._asdict().items()},
    )
