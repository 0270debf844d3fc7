"""The tensor-core kernel of the modulated deformable convolution for compute capability 8.0 and newer.

``kernels/tensor.cu`` computes the operator in one launch: float16, bfloat16, and float32 as TF32. It needs at most
48 KiB of shared memory and no cluster, which is what TensorRT can launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from convkit.cuda import Argument, Bound, Kernel, Launch, Variant, cdiv, itemsize
from convkit_plugins.dcnv2.cuda._hopper import CALL_CONSTANTS, LAYOUT_SCALARS, call_constants
from convkit_plugins.dcnv2.cuda._layers import Layer

__all__ = ["TENSOR", "Division", "division_for", "tensor_serves", "tensor_variant", "tensor_variants"]

MOST_SHARED = 48 * 1024
"""Dynamic shared memory, in bytes, that needs no asking for; TensorRT cannot ask."""


class Division(NamedTuple):
    """How the work is divided; the names are those of the macros of ``tensor.cu``.

    tile_n: output channels of a block, a multiple of 32.
    wm: warps of a block with 16 pixels of their own.
    wk: warps that divide the sum of the same pixels.
    stages: groups of ``wk`` tiles of weights in shared memory at a time, 2 or more.
    """

    tile_n: int
    wm: int
    wk: int
    stages: int


def _geometry(
    batch: Any,
    out_height: Any,
    out_width: Any,
    N: int,  # noqa: N803 - named as constants
    TILE_N: int,  # noqa: N803
    TILE_W: int,  # noqa: N803
    WM: int,  # noqa: N803
    WK: int,  # noqa: N803
    SHARED: int,  # noqa: N803
) -> Launch:
    patches = batch * cdiv(out_height, 16 * WM // TILE_W) * cdiv(out_width, TILE_W)
    return Launch((patches, -(-N // TILE_N), 1), (WM * WK * 32, 1, 1), SHARED)


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
    geometry=_geometry,
    constants=(*CALL_CONSTANTS, "TF32", "SHARED", *(name.upper() for name in Division._fields)),
    least=80,
    bound=Bound(registers=255, shared=0, spills=0),
)
"""The kernel. Constants: T, TF32 and BF16, the type of all tensors; the layer; SIGMOID, whether it is still to be
applied to the mask; RELU; OUT_PLANES, whether the output is NCHW; BLEND_FLOAT, whether samples are blended in float32;
and the fields of a `Division`."""


def tensor_serves(layer: Layer, dtype: str, x_shape: Sequence[int]) -> bool:
    """Tell whether the kernel can compute a layer for an ``x`` [N, C, H, W]; its memory has to be channels-last."""
    _, channels, height, width = x_shape
    piece = 16 // itemsize(dtype)
    return (
        dtype in ("float32", "float16", "bfloat16")
        and channels % piece == 0
        and channels // layer.groups % piece == 0
        and min(height, width) >= 2
        and division_for(layer, channels, dtype, 1) is not None
    )


def division_for(layer: Layer, channels: int, dtype: str, pixels: int, multiprocessors: int = 108) -> Division | None:
    """Return a division for so many output pixels of the whole batch, or None if shared memory is too small for any.

    Few pixels are spread over more blocks, and the sum over more warps of a block.
    """
    for tile_n in (128, 64, 32) if layer.filters > 64 else (64, 32) if layer.filters > 32 else (32,):
        for wm in (4, 2, 1):
            blocks = pixels / (16 * wm) * -(-layer.filters // tile_n)
            if blocks < multiprocessors and (wm > 1 or tile_n > 32):
                continue
            for wk in (4, 2, 1) if blocks < 2 * multiprocessors else (2, 1):
                for stages in (3, 2):
                    division = Division(tile_n, wm, wk, stages)
                    if wm * wk <= 8 and _shared(division, layer, dtype) <= MOST_SHARED:
                        return division
    return None


def _shared(division: Division, layer: Layer, dtype: str) -> int:
    """Return the dynamic shared memory of a block: tiles of weights and the table of samples, or the sums."""
    samples = layer.groups * layer.kernel[0] * layer.kernel[1] * 16 * division.wm * (16 + 4)
    tiles = division.stages * division.wk * division.tile_n * 128
    return max(tiles + samples, division.wm * 16 * division.tile_n * 4 if division.wk > 1 else 0)


def tensor_variant(
    layer: Layer,
    dtype: str,
    channels: int,
    division: Division,
    *,
    sigmoid: bool,
    relu: bool = False,
    planes: bool = False,
    exact: bool = True,
) -> Variant:
    """Return the kernel of a layer.

    Args:
        layer: its settings.
        dtype: float16, bfloat16, or float32 for TF32.
        channels: those of ``x``.
        division: how to divide the work.
        sigmoid: whether the mask is a logit.
        relu: whether the result passes a ReLU.
        planes: whether the output is NCHW rather than channels-last.
        exact: blend samples with float32 weights and sums; else in float16, which has to be the dtype.
    """
    return TENSOR.variant(
        **call_constants(layer, dtype, channels, sigmoid=sigmoid, relu=relu, planes=planes, exact=exact),
        TF32=dtype == "float32",
        SHARED=_shared(division, layer, dtype),
        **{name.upper(): value for name, value in division._asdict().items()},
    )


def tensor_variants() -> list[Variant]:
    """Return variants that cover every constant, for tests that compile them."""
    variants = []
    for dtype, channels, filters, pixels in (
        ("float16", 512, 256, 256),
        ("float16", 64, 64, 2**17),
        ("bfloat16", 128, 128, 2**12),
        ("float32", 64, 64, 2**14),
    ):
        layer = Layer(filters, (3, 3), (1, 1), (1, 1))
        division = division_for(layer, channels, dtype, pixels)
        assert division is not None
        variants.append(tensor_variant(layer, dtype, channels, division, sigmoid=True))
    odd = Layer(40, (5, 2), (2, 1), (1, 0), (1, 3), 2)
    small = Division(32, 1, 2, 2)
    variants.append(tensor_variant(odd, "float16", 48, small, sigmoid=False, relu=True, planes=True, exact=False))
    return variants
