"""A layer's settings, and what both tensor-core kernels get of a call: compile-time constants and scalar arguments."""

from __future__ import annotations

from dataclasses import dataclass

from convkit.cuda import ArrayView
from convkit.errors import KernelArgumentError

__all__ = [
    "CALL_CONSTANTS",
    "LAYOUT_SCALARS",
    "TILE_W",
    "Layer",
    "call_constants",
    "check_indices",
    "layout_scalars",
    "pixel_strides",
]

TILE_W = 8
"""The width of a patch of output pixels; the square one touches the fewest input pixels."""
LAYOUT_SCALARS = (
    *("batch", "height", "width", "out_height", "out_width", "offset_image", "offset_channel", "offset_pixel"),
    *("mask_image", "mask_channel", "mask_pixel"),
)
"""The names of the scalar arguments, as `layout_scalars` returns them."""
_LAYER_CONSTANTS = ("KH", "KW", "SH", "SW", "PH", "PW", "DH", "DW", "C", "G", "N")
CALL_CONSTANTS = (*_LAYER_CONSTANTS, "T", "BF16", "SIGMOID", "RELU", "OUT_PLANES", "BLEND_FLOAT", "TILE_W")
"""The names of the constants that `call_constants` returns."""
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Layer:
    """The settings of a layer. Pairs are (vertical, horizontal); ``padding`` is above and to the left of the image."""

    filters: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def taps(self) -> int:
        """Taps of the kernel: height times width."""
        return self.kernel[0] * self.kernel[1]


def call_constants(
    layer: Layer, dtype: str, channels: int, *, sigmoid: bool, relu: bool, planes: bool, blend_fp32: bool
) -> dict[str, bool | int | str]:
    """Return the constants of a call that both tensor-core kernels share.

    Args:
        layer: its settings.
        dtype: float16 or bfloat16; float32 for TF32.
        channels: those of ``x``.
        sigmoid: whether the mask is a logit.
        relu: whether the result passes a ReLU.
        planes: whether the output is NCHW rather than channels-last.
        blend_fp32: blend samples in float32; else in float16, which must be the dtype.
    """
    settings = (*layer.kernel, *layer.stride, *layer.padding, *layer.dilation, channels, layer.groups, layer.filters)
    return {
        **dict(zip(_LAYER_CONSTANTS, settings, strict=True)),
        "T": dtype,
        "BF16": dtype == "bfloat16",
        "SIGMOID": sigmoid,
        "RELU": relu,
        "OUT_PLANES": planes,
        "BLEND_FLOAT": blend_fp32,
        "TILE_W": TILE_W,
    }


def layout_scalars(x: ArrayView, offset: ArrayView, mask: ArrayView, out: ArrayView) -> tuple[int, ...]:
    """Return the scalar arguments of the tensor-core kernels, named by `LAYOUT_SCALARS`.

    ``x`` is dense and channels-last; ``offset`` [N, 2 G kh kw, oh, ow] and ``mask`` [N, G kh kw, oh, ow] may be parts
    of one tensor whose pixels follow each other row by row; ``out`` is dense, NCHW or channels-last.

    Raises:
        KernelArgumentError: a layout is not of that kind, or an index would exceed 32 bits.
    """
    batch, _, height, width = x.shape
    out_height, out_width = out.shape[2:]
    if not x.channels_last:
        raise KernelArgumentError(
            f"x has strides {tuple(x.strides)}; the kernel reads dense channels-last memory.",
            hint="Pass x.contiguous(memory_format=torch.channels_last).",
        )
    strides = (*pixel_strides("offset", offset), *pixel_strides("mask", mask))
    check_indices(
        {
            "the number of pixels of x": batch * height * width,
            "the number of output pixels": batch * out_height * out_width + 2**16,
            "offset": offset.extent(),
            "mask": mask.extent(),
        }
    )
    return (batch, height, width, out_height, out_width, *strides)


def pixel_strides(name: str, view: ArrayView) -> tuple[int, int, int]:
    """Return the strides of images, channels and pixels of an array [N, C, H, W] whose pixels follow row by row.

    Raises:
        KernelArgumentError: there are gaps between its rows.
    """
    image, channel, row, pixel = view.strides
    height, width = view.shape[2:]
    if height > 1 and row != width * pixel:
        raise KernelArgumentError(
            f"The rows of {name} are {row} elements apart, and not {width} pixels of {pixel}.",
            hint="Pass a contiguous or a channels-last tensor, or channels of one.",
        )
    return image, channel, pixel


def check_indices(largest: dict[str, int]) -> None:
    """Raise `KernelArgumentError` where an index or a count does not fit a signed integer of 32 bits."""
    for name, value in largest.items():
        if value > _INT32_MAX:
            raise KernelArgumentError(
                f"deform_conv2d: {name} is too large for indices of 32 bits.", hint="Split the batch."
            )
