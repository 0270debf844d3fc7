"""The Hopper kernel of the modulated deformable convolution: float16 and bfloat16 on compute capability 9.0.

``kernels/hopper.cu`` computes the operator in one launch with the tensor cores. Here stand its declaration, which
layers it serves, and what turns a layer, a tactic and the layouts of the tensors into a variant and its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convkit.cuda import Argument, Bound, Kernel, Launch, Variant, cdiv
from convkit.errors import KernelArgumentError
from convkit_plugins.dcnv2.cuda._layers import Layer, Layout
from convkit_plugins.dcnv2.cuda._tactics import PATCH, Problem, Tactic, candidates, shared_bytes

__all__ = [
    "CALL_CONSTANTS",
    "HOPPER",
    "LAYOUT_SCALARS",
    "TILE_W",
    "call_constants",
    "hopper_serves",
    "hopper_variant",
    "hopper_variants",
    "layout_scalars",
    "problem_of",
]

TILE_W = 8
"""The width of a patch of output pixels; the square one touches the fewest input pixels."""

LAYOUT_SCALARS = (
    *("batch", "height", "width", "out_height", "out_width", "offset_image", "offset_channel", "offset_pixel"),
    *("mask_image", "mask_channel", "mask_pixel"),
)
"""The scalar arguments that tell sizes and layouts, as `layout_scalars` returns them."""
LAYER_CONSTANTS = ("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW", "C", "G", "N")
CALL_CONSTANTS = (*LAYER_CONSTANTS, "T", "BF16", "SIGMOID", "RELU", "OUT_PLANES", "BLEND_FLOAT", "TILE_W")
"""The constants that tell a layer and a call, as `call_constants` returns them."""
_MOST = 2**31 - 1


def _geometry(
    batch: Any,
    out_height: Any,
    out_width: Any,
    multiprocessors: Any,
    N: int,  # noqa: N803 - named as constants
    TILE_N: int,  # noqa: N803
    TILE_W: int,  # noqa: N803
    PATCHES: int,  # noqa: N803
    PRODUCERS: int,  # noqa: N803
    CM: int,  # noqa: N803
    CK: int,  # noqa: N803
    BLOCKS: int,  # noqa: N803
    SHARED: int,  # noqa: N803
) -> Launch:
    """Launch a block for each set of patches, or as many as run at a time, each with equally many sets."""
    columns = -(-N // TILE_N)
    blocks = cdiv(batch * cdiv(out_height, PATCH // TILE_W) * cdiv(out_width, TILE_W), PATCHES)
    if CK == 1:
        at_once = (multiprocessors * BLOCKS + columns - 1) // columns
        blocks = cdiv(blocks, cdiv(blocks, at_once))
    return Launch((cdiv(blocks, CM) * CM, columns, CK), ((PRODUCERS + 2) * 128, 1, 1), SHARED, BLOCKS)


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
    geometry=_geometry,
    constants=(*CALL_CONSTANTS, "SHARED", *(name.upper() for name in Tactic._fields)),
    least=90,
    bound=Bound(registers=255, shared=0, spills=160),  # 255 registers and a few spills are faster than smaller tiles
    specific=True,
)
"""The kernel. Constants: T and BF16, the type of all tensors; the layer; SIGMOID, whether it is still to be applied to
the mask; RELU; OUT_PLANES, whether the output is NCHW; BLEND_FLOAT, whether samples are blended in float32; and the
fields of a `Tactic`."""


def hopper_serves(layer: Layer, dtype: str, x_shape: Sequence[int]) -> bool:
    """Tell whether the kernel can compute a layer for an ``x`` [N, C, H, W]; its memory has to be channels-last.

    It can then blend in float32, which takes more memory than in float16.
    """
    _, channels, height, width = x_shape
    return (
        dtype in ("float16", "bfloat16")
        and channels % 8 == 0
        and channels // layer.groups % 8 == 0
        and min(height, width) >= 2
        and bool(candidates(problem_of(layer, channels, 1, True), 1))
    )


def problem_of(layer: Layer, channels: int, pixels: int, exact: bool) -> Problem:
    """Return what the choice of a tactic depends on."""
    return Problem(channels, layer.filters, layer.kernel[0] * layer.kernel[1], layer.groups, pixels, exact)


def hopper_variant(
    layer: Layer,
    dtype: str,
    channels: int,
    tactic: Tactic,
    *,
    sigmoid: bool,
    relu: bool = False,
    planes: bool = False,
    exact: bool = True,
) -> Variant:
    """Return the kernel of a layer.

    Args:
        layer: its settings.
        dtype: float16 or bfloat16.
        channels: those of ``x``.
        tactic: how to divide the work; it must fit.
        sigmoid: whether the mask is a logit.
        relu: whether the result passes a ReLU.
        planes: whether the output is NCHW rather than channels-last.
        exact: blend samples with float32 weights and sums; else in float16, which has to be the dtype.
    """
    return HOPPER.variant(
        **call_constants(layer, dtype, channels, sigmoid=sigmoid, relu=relu, planes=planes, exact=exact),
        SHARED=shared_bytes(tactic, problem_of(layer, channels, 1, exact)),
        **{name.upper(): value for name, value in tactic._asdict().items()},
    )


def call_constants(
    layer: Layer, dtype: str, channels: int, *, sigmoid: bool, relu: bool, planes: bool, exact: bool
) -> dict[str, bool | int | str]:
    """Return what the tensor-core kernels are told of a call by constants; see `hopper_variant`."""
    settings = (*layer.kernel, *layer.stride, *layer.padding, *layer.dilation, channels, layer.groups, layer.filters)
    return {
        **dict(zip(LAYER_CONSTANTS, settings, strict=True)),
        "T": dtype,
        "BF16": dtype == "bfloat16",
        "SIGMOID": sigmoid,
        "RELU": relu,
        "OUT_PLANES": planes,
        "BLEND_FLOAT": exact,
        "TILE_W": TILE_W,
    }


def layout_scalars(x: Layout, offset: Layout, mask: Layout, out: Layout) -> tuple[int, ...]:
    """Return the arguments of the tensor-core kernels after their six pointers.

    ``x`` is dense and channels-last; ``offset`` [N, 2 G kh kw, oh, ow] and ``mask`` [N, G kh kw, oh, ow] may be parts
    of one tensor, with pixels that follow each other; ``out`` is dense, NCHW or channels-last.

    Raises:
        KernelArgumentError: the layouts are others, or something is too large for indices of 32 bits.
    """
    batch, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    dense = (height * width * channels, 1, width * channels, channels)
    if any(size > 1 and stride != wanted for size, stride, wanted in zip(x.shape, x.strides, dense, strict=True)):
        raise KernelArgumentError(
            f"x has strides {tuple(x.strides)}; the kernel reads dense channels-last memory.",
            hint="Give x.contiguous(memory_format=torch.channels_last).",
        )
    views: list[int] = []
    for name, layout in (("offset", offset), ("mask", mask)):
        image, channel, row, pixel = layout.strides
        if out_height > 1 and row != out_width * pixel:
            raise KernelArgumentError(
                f"The rows of {name} are {row} elements apart, and not {out_width} pixels of {pixel}.",
                hint="Give a contiguous or a channels-last tensor, or channels of one.",
            )
        views += [image, channel, pixel]
    for name, most in (
        ("the number of pixels of x", batch * height * width),
        ("the number of output pixels", batch * out_height * out_width + 2**16),
        ("offset", _last(offset)),
        ("mask", _last(mask)),
    ):
        if most > _MOST:
            raise KernelArgumentError(
                f"deform_conv2d: {name} is too large for indices of 32 bits.", hint="Split the batch."
            )
    return (batch, height, width, out_height, out_width, *views)


def _last(layout: Layout) -> int:
    """Return the index of the last element."""
    return sum((size - 1) * abs(stride) for size, stride in zip(layout.shape, layout.strides, strict=True))


def hopper_variants() -> list[Variant]:
    """Return variants that cover every constant, for tests that compile them: the best tactic of each kind of layer."""
    square = Layer(64, (3, 3), (1, 1), (1, 1))
    variants = []
    for channels, filters, pixels in ((512, 256, 256), (64, 64, 2**17), (256, 128, 2**13), (256, 256, 2**15)):
        layer = Layer(filters, (3, 3), (1, 1), (1, 1))
        for exact in (False, True):
            tactic = candidates(problem_of(layer, channels, pixels, exact), 1)[0]
            variants.append(hopper_variant(layer, "float16", channels, tactic, sigmoid=True, exact=exact))
    one = Tactic(64, 2, 2, 1, 1, 4, 2, 1, 1)
    variants.append(hopper_variant(square, "bfloat16", 128, one, sigmoid=False, relu=True, planes=True))
    odd = Layer(40, (5, 2), (2, 1), (1, 0), (1, 3), 2)
    variants.append(hopper_variant(odd, "float16", 48, Tactic(32, 1, 1, 2, 1, 3, 2, 4, 1), sigmoid=True, exact=False))
    return variants
