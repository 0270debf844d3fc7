"""The plain kernel of the modulated deformable convolution: float32 everywhere, and every type on sm_75.

``kernels/plain.cu`` computes the operator in one launch without tensor cores, for any channels, kernel, stride,
padding, dilation, offset groups and strides in memory. Here stand its declaration, and what turns a layer and the
layouts of its tensors into the arguments of a launch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from convkit.cuda import Argument, Bound, Kernel, Launch, Variant, cdiv
from convkit.errors import KernelArgumentError
from convkit_plugins.dcnv2.cuda._layers import Layer, Layout

__all__ = [
    "PLAIN",
    "Tile",
    "can_load_four",
    "pack_plain",
    "plain_scalars",
    "plain_variants",
    "tile_for",
]

CHUNK = 16
"""The channels that the kernel takes at once; a group of the packed weight is padded to a multiple."""

_SCALARS = (
    *("batch", "channels", "height", "width", "filters", "out_height", "out_width", "kernel_height", "kernel_width"),
    *("stride_y", "stride_x", "pad_top", "pad_left", "dilation_y", "dilation_x", "groups"),
    *("x_image", "x_channel", "x_row", "x_pixel", "offset_image", "offset_channel", "offset_pixel"),
    *("mask_image", "mask_channel", "mask_pixel", "out_image", "out_channel", "out_pixel"),
)
_ENOUGH_BLOCKS = 256
_MOST = 2**31 - 1
_MOST_SIDE = 2**23  # every whole coordinate, and one beside it, is a float32


class Tile(NamedTuple):
    """The outputs of a block, pixels x filters, and the rows x columns of them that one thread holds.

    The threads of a block form ``parts`` groups, which share the taps and channels among them.
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
"""The tiles that are compiled in the tests."""


def _geometry(
    batch: Any,
    filters: Any,
    out_height: Any,
    out_width: Any,
    PIXELS: int,  # noqa: N803 - named as constants
    FILTERS: int,  # noqa: N803
    ROWS: int,  # noqa: N803
    COLUMNS: int,  # noqa: N803
    PARTS: int,  # noqa: N803
) -> Launch:
    blocks = cdiv(batch * out_height * out_width, PIXELS) * cdiv(filters, FILTERS)
    return Launch(grid=(blocks, 1, 1), block=(Tile(PIXELS, FILTERS, ROWS, COLUMNS, PARTS).threads, 1, 1))


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
        *(Argument(name, "int32", pointer=False) for name in _SCALARS),
    ),
    sizes=("batch", "filters", "out_height", "out_width"),
    geometry=_geometry,
    constants=("T", "SIGMOID", "RELU", "VECTOR", *(name.upper() for name in Tile._fields)),
    bound=Bound(registers=168, shared=48 * 1024, spills=0),
)
"""The kernel. Constants: T, the type of all tensors; SIGMOID, whether it is still to be applied to the mask; RELU;
VECTOR, see `can_load_four`; and the fields of a `Tile`."""


def pack_plain(weight: np.ndarray[Any, Any], groups: int, filters: int) -> np.ndarray[Any, Any]:
    """Return a weight [O, C, kh, kw] as the kernel reads it, in the same dtype (bfloat16 as uint16).

    Args:
        weight: the filters.
        groups: the offset groups of the layer.
        filters: those of the tile.

    Returns:
        [tiles, groups, kh * kw, channels of a group padded to `CHUNK`, filters of a tile], zeros in the gaps.
    """
    count, channels, kh, kw = weight.shape
    members, tiles = channels // groups, -(-count // filters)
    padded = -(-members // CHUNK) * CHUNK
    packed = np.zeros((tiles * filters, groups, kh * kw, padded), weight.dtype)
    packed[:count, ..., :members] = weight.reshape(count, groups, members, kh * kw).swapaxes(2, 3)
    return np.ascontiguousarray(packed.reshape(tiles, filters, groups, kh * kw, padded).transpose(0, 2, 3, 4, 1))


def can_load_four(layer: Layer, x: Layout, address: int, itemsize: int) -> bool:
    """Tell whether four channels of a pixel can be loaded at once: the constant VECTOR for an ``x`` at an address."""
    image, channel, row, pixel = x.strides
    return (
        channel == 1
        and x.shape[1] // layer.groups % 4 == 0
        and all(stride % 4 == 0 for stride in (image, row, pixel))
        and address % (4 * itemsize) == 0
    )


def plain_scalars(layer: Layer, x: Layout, offset: Layout, mask: Layout, out: Layout) -> tuple[int, ...]:
    """Return the arguments of the kernel after its six pointers.

    ``offset`` [N, 2 G kh kw, oh, ow] and ``mask`` [N, G kh kw, oh, ow] may be parts of one tensor. The shapes must fit
    each other as `deform_conv2d` has it, except that ``out`` [N, O, oh, ow] says how far the padding behind goes.

    Raises:
        KernelArgumentError: something is too large for indices of 32 bits, or the rows of ``offset``, ``mask`` or
            ``out`` do not follow each other like pixels.
    """
    batch, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    views = []
    for name, layout in (("offset", offset), ("mask", mask), ("out", out)):
        image, channel, row, pixel = layout.strides
        if out_height > 1 and row != out_width * pixel:
            raise KernelArgumentError(
                f"The rows of {name} are {row} elements apart, and not {out_width} pixels of {pixel}.",
                hint="Give a contiguous or a channels-last tensor, or channels of one.",
            )
        views += [image, channel, pixel]
    members = channels // layer.groups
    rows = layer.groups * layer.kernel[0] * layer.kernel[1] * (members + CHUNK - 1)
    for name, most in (
        *((name, _last(layout)) for name, layout in (("x", x), ("offset", offset), ("mask", mask), ("out", out))),
        ("the number of output pixels", batch * out_height * out_width + 1024),
        ("the weight", rows * (layer.filters + 1024)),
        ("the image", max(height, width) * (_MOST // _MOST_SIDE)),
        ("the output", (max(out_height * layer.stride[0], out_width * layer.stride[1])) * (_MOST // _MOST_SIDE)),
    ):
        if most > _MOST:
            raise KernelArgumentError(
                f"deform_conv2d: {name} is too large for indices of 32 bits.", hint="Split the batch."
            )
    settings = (*layer.kernel, *layer.stride, *layer.padding, *layer.dilation, layer.groups)
    return (batch, channels, height, width, layer.filters, out_height, out_width, *settings, *x.strides, *views)


def _last(layout: Layout) -> int:
    """Return the index of the last element and of a frame around it, which may be addressed but is never read."""
    return sum((size + 1) * abs(stride) for size, stride in zip(layout.shape, layout.strides, strict=True))


def tile_for(pixels: int, filters: int) -> Tile:
    """Return a tile for so many output pixels (of the whole batch) and filters.

    The largest that still gives every multiprocessor of a large GPU about two blocks; this follows from counting
    blocks, not from measurements.
    """
    for tile in TILES[:1] * (filters > 32) + TILES[4:5]:
        if -(-pixels // tile.pixels) * -(-filters // tile.filters) >= _ENOUGH_BLOCKS:
            return tile
    return TILES[5]


def plain_variants() -> list[Variant]:
    """Return variants that cover every constant, for tests that compile them."""
    common = {"SIGMOID": True, "RELU": False}
    tiles = [{key.upper(): value for key, value in tile._asdict().items()} for tile in TILES]
    variants = [
        PLAIN.variant(T=dtype, VECTOR=vector, **common, **tiles[0])
        for dtype in ("float32", "float16", "bfloat16")
        for vector in (False, True)
    ]
    variants += [PLAIN.variant(T="float32", VECTOR=True, **common, **tile) for tile in tiles[1:]]
    return [*variants, PLAIN.variant(T="float16", VECTOR=True, SIGMOID=False, RELU=True, **tiles[1])]
