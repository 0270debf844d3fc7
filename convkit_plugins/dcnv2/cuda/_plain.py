"""The plain kernel of the modulated deformable convolution: float32 everywhere, and every type on sm_75.

``kernels/plain.cu`` computes the operator in one launch without tensor cores, for any channels, kernel, stride,
padding, dilation, offset groups and strides in memory. This module contains its declaration, its tiles, and the scalar
arguments of a launch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from convkit.cuda import Argument, ArrayView, Kernel, LaunchConfig, ResourceLimit, cdiv, itemsize
from convkit.errors import KernelArgumentError
from convkit_plugins.dcnv2.cuda._layers import Layer, check_indices, pixel_strides

__all__ = ["CHUNK", "PLAIN", "PLAIN_SCALARS", "TILES", "Tile", "can_load_four", "plain_scalars", "tile_for"]

CHUNK = 16
"""Channels of a step of the kernel; each group of the packed weight is padded to a multiple of it."""

PLAIN_SCALARS = (
    *("batch", "channels", "height", "width", "filters", "out_height", "out_width", "kernel_height", "kernel_width"),
    *("stride_y", "stride_x", "pad_top", "pad_left", "dilation_y", "dilation_x", "groups"),
    *("x_image", "x_channel", "x_row", "x_pixel", "offset_image", "offset_channel", "offset_pixel"),
    *("mask_image", "mask_channel", "mask_pixel", "out_image", "out_channel", "out_pixel"),
)
"""The names of the scalar arguments, as `plain_scalars` returns them."""
_ENOUGH_BLOCKS = 256
_MAX_SIDE = 2**23
"""Up to here every whole coordinate, and the one beside it, is a float32."""


class Tile(NamedTuple):
    """The outputs of a block, pixels x filters, and those of a thread, rows x columns.

    The threads of a block form ``parts`` groups, which divide the sum over channels and taps.
    """

    pixels: int
    filters: int
    rows: int
    columns: int
    parts: int = 1

    @property
    def threads(self) -> int:
        """The threads of a block."""
        return self.pixels // self.rows * (self.filters // self.columns) * self.parts


TILES = (
    Tile(64, 64, 8, 4),
    Tile(64, 64, 4, 4),
    Tile(128, 64, 8, 4),
    Tile(64, 128, 8, 4),
    Tile(64, 32, 4, 4),
    Tile(32, 32, 4, 4, 4),
)
"""The tiles that are tested; `tile_for` returns one of them."""


def _launch_config(
    batch: Any,
    filters: Any,
    out_height: Any,
    out_width: Any,
    PIXELS: int,  # noqa: N803 - named as constants
    FILTERS: int,  # noqa: N803
    ROWS: int,  # noqa: N803
    COLUMNS: int,  # noqa: N803
    PARTS: int,  # noqa: N803
) -> LaunchConfig:
    blocks = cdiv(batch * out_height * out_width, PIXELS) * cdiv(filters, FILTERS)
    return LaunchConfig(grid=(blocks, 1, 1), block=(Tile(PIXELS, FILTERS, ROWS, COLUMNS, PARTS).threads, 1, 1))


PLAIN = Kernel(
    name="convkit_dcnv2_plain",
    source=Path(__file__).parent / "kernels" / "plain.cu",
    arguments=(
        Argument("x", "T"),
        Argument("offset", "T"),
        Argument("mask", "T"),
        Argument("weight", "T", alignment=16),
        Argument("bias", "T"),
        Argument("out", "T", output=True),
        *(Argument(name, "int32", pointer=False) for name in PLAIN_SCALARS),
    ),
    sizes=("batch", "filters", "out_height", "out_width"),
    launch_config=_launch_config,
    constants=("T", "SIGMOID", "RELU", "VECTOR", *(name.upper() for name in Tile._fields)),
    limit=ResourceLimit(registers=168),
)
"""The kernel. Constants: T, the type of all tensors; SIGMOID, whether the mask is a logit; RELU, whether the result
passes one; VECTOR, see `can_load_four`; and the fields of a `Tile`."""


def can_load_four(layer: Layer, x: ArrayView) -> bool:
    """Return whether four channels of a pixel of ``x`` can be loaded at once: the constant VECTOR."""
    image, channel, row, pixel = x.strides
    return (
        channel == 1
        and x.shape[1] // layer.groups % 4 == 0
        and all(stride % 4 == 0 for stride in (image, row, pixel))
        and x.address % (4 * itemsize(x.dtype)) == 0
    )


def plain_scalars(layer: Layer, x: ArrayView, offset: ArrayView, mask: ArrayView, out: ArrayView) -> tuple[int, ...]:
    """Return the scalar arguments of the kernel, named by `PLAIN_SCALARS`.

    ``offset`` [N, 2 G kh kw, oh, ow] and ``mask`` [N, G kh kw, oh, ow] may be parts of one tensor. The shapes must fit
    each other as `deform_conv2d` requires, except that ``out`` [N, O, oh, ow] determines the padding below and to the
    right.

    Raises:
        KernelArgumentError: an index would exceed 32 bits, or there are gaps between the rows of ``offset``, ``mask``
            or ``out``.
    """
    batch, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    views = {"offset": offset, "mask": mask, "out": out}
    strides = [stride for name, view in views.items() for stride in pixel_strides(name, view)]
    padded = layer.groups * layer.taps * (channels // layer.groups + CHUNK - 1)
    check_indices(
        {
            **{name: _reach(view) for name, view in {"x": x, **views}.items()},
            "the number of output pixels": batch * out_height * out_width + 1024,
            "the weight": padded * (layer.filters + 1024),
        }
    )
    for name, side in (
        ("the image", max(height, width)),
        ("the output", max(out_height * layer.stride[0], out_width * layer.stride[1])),
    ):
        if side > _MAX_SIDE:
            raise KernelArgumentError(
                f"deform_conv2d: {name} is too large: beyond {_MAX_SIDE} pixels, float32 coordinates are not exact.",
                hint="Divide the image.",
            )
    settings = (*layer.kernel, *layer.stride, *layer.padding, *layer.dilation, layer.groups)
    return (batch, channels, height, width, layer.filters, out_height, out_width, *settings, *x.strides, *strides)


def _reach(view: ArrayView) -> int:
    """Return the largest index that the kernel computes: of the last element of a frame of one pixel around it."""
    return sum((size + 1) * abs(stride) for size, stride in zip(view.shape, view.strides, strict=True))


def tile_for(pixels: int, filters: int) -> Tile:
    """Return a tile for so many output pixels (of the whole batch) and filters.

    It is the largest with which every multiprocessor of a large GPU still has about two blocks. Blocks were counted,
    not times measured.
    """
    for tile in TILES[:1] * (filters > 32) + TILES[4:5]:
        if -(-pixels // tile.pixels) * -(-filters // tile.filters) >= _ENOUGH_BLOCKS:
            return tile
    return TILES[5]
