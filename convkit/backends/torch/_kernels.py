"""Kernels of the torch backend: what its libraries lack for 16-bit networks in channels-last memory.

Each is a declaration and a function of what a launch depends on. `first_layer_variant` divides the work of the first
layer; the others have one form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv

__all__ = [
    "BIAS",
    "DEPTHWISE_TRANSPOSED",
    "FEW_FILTERS",
    "FIRST_LAYER",
    "MAX_POOL",
    "FirstLayer",
    "first_layer_variant",
]

_FOLDER = Path(__file__).parent / "kernels"
_THREADS = 256
_WAVES = 16
"""Blocks of a multiprocessor in a grid whose threads go through a tensor in strides."""
TURNS = 2
"""Tiles of 16 outputs that a warp of the first layer computes."""
BLOCKS_PER_SM = 2
"""Blocks of the first layer that a multiprocessor runs at a time."""
_SMEM_LIMIT = 100 * 1024
"""Dynamic shared memory in bytes of a block of the first layer; two of them fit a multiprocessor of 8.0 and 9.0."""


@dataclass(frozen=True)
class FirstLayer:
    """A convolution with a square kernel, its ReLU, and max pooling (3 x 3, stride 2, padding 1) if ``pool``."""

    filters: int
    channels: int
    kernel: int
    stride: int
    padding: int
    pool: bool

    @property
    def served(self) -> bool:
        """Whether the kernel computes it: few channels, filters in blocks of 16, a patch that fits shared memory."""
        return self.channels <= 4 and self.filters % 16 == 0 and self.shared <= _SMEM_LIMIT

    @property
    def filters_of_block(self) -> int:
        """Filters of a block: 64, 48, 32 or 16."""
        return next(size for size in (64, 48, 32, 16) if self.filters % size == 0)

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of the outputs of a block."""
        return (4, 16) if self.pool else (8, 32)

    @property
    def pixel(self) -> int:
        """Values of a pixel in shared memory."""
        return self.channels + self.stride * self.channels % 2

    @property
    def lead(self) -> int:
        """Values before a row of the kernel, 1 where the patch would not begin at a whole word."""
        return (self.stride * self.pool + self.padding) * self.channels % 2 if self.pixel == self.channels else 0

    @property
    def run(self) -> int:
        """Words of two values that a row of the kernel takes, a multiple of 4."""
        return -(-(self.lead + self.kernel * self.pixel) // 8) * 4

    @property
    def steps(self) -> int:
        """Products of 16 values that the sum of an output takes."""
        return -(-self.kernel * self.run // 8)

    @property
    def block(self) -> int:
        """Threads of a block: a warp has `TURNS` tiles of 16 pixels."""
        rows, columns = self._computed
        return -(-rows * columns // (16 * TURNS)) * 32

    @property
    def shared(self) -> int:
        """Dynamic shared memory of a block in bytes; ``first_layer.cu`` lays it out and checks this number."""
        rows, columns = self._computed
        pitch = (columns - 1) * self.stride * self.pixel + 2 * self.run
        weights, result = (
            self.steps * self.filters_of_block * 32 + self.filters_of_block * 4,
            rows * columns * (self.filters_of_block + 8) * 2,
        )
        return -(-(weights + result + ((rows - 1) * self.stride + self.kernel) * pitch * 2) // 16) * 16

    @property
    def _computed(self) -> tuple[int, int]:
        """Height and width of the convolution's outputs that a block computes."""
        height, width = self.tile
        return (2 * height + 1, 2 * width + 1) if self.pool else (height, width)


def _first_layer_config(
    batch: Any,
    out_height: Any,
    out_width: Any,
    multiprocessors: Any,
    N: int,  # noqa: N803 - named as constants
    FILTERS: int,  # noqa: N803
    TILE_H: int,  # noqa: N803
    TILE_W: int,  # noqa: N803
    BLOCK: int,  # noqa: N803
    BLOCKS_PER_SM: int,  # noqa: N803
    SHARED: int,  # noqa: N803
) -> LaunchConfig:
    """Return a grid of as many blocks as run at a time, with equally many tiles each."""
    tiles, columns = batch * cdiv(out_height, TILE_H) * cdiv(out_width, TILE_W), N // FILTERS
    at_once = cdiv(BLOCKS_PER_SM * multiprocessors, columns)
    return LaunchConfig((cdiv(tiles, cdiv(tiles, at_once)), columns, 1), (BLOCK, 1, 1), SHARED, BLOCKS_PER_SM)


FIRST_LAYER = Kernel(
    name="convkit_first_layer",
    source=_FOLDER / "first_layer.cu",
    arguments=(
        Argument("x", "T"),
        Argument("weight", "T", alignment=16),
        Argument("bias", "T"),
        Argument("out", "T", output=True, alignment=16),
        *(
            Argument(name, "int32", pointer=False)
            for name in ("batch", "height", "width", "conv_height", "conv_width", "out_height", "out_width")
        ),
    ),
    sizes=("batch", "out_height", "out_width", "multiprocessors"),
    launch_config=_first_layer_config,
    constants=(
        *(
            "T",
            "BF16",
            "N",
            "C",
            "KERNEL",
            "STRIDE",
            "PAD",
            "POOL",
            "FILTERS",
            "TILE_H",
            "TILE_W",
            "TURNS",
            "PAIRS",
            "BLOCK",
            "BLOCKS_PER_SM",
            "SHARED",
        ),
    ),
    min_compute_capability=80,
    # Two blocks at a time are worth the spills on an H100 (100 bytes); sm_80 has most, in bfloat16: not measured.
    limit=ResourceLimit(registers=128, static_smem_bytes=0, spill_bytes=216),
)
"""The declaration of ``first_layer.cu``; `first_layer_variant` sets its constants."""


def first_layer_variant(layer: FirstLayer, dtype: str, *, pairs: bool) -> Variant:
    """Return the variant for a layer, float16 or bfloat16; ``pairs``: rows of the image begin at whole words."""
    height, width = layer.tile
    return FIRST_LAYER.variant(
        T=dtype, BF16=dtype == "bfloat16", N=layer.filters, C=layer.channels, KERNEL=layer.kernel, STRIDE=layer.stride,
        PAD=layer.padding, POOL=layer.pool, FILTERS=layer.filters_of_block, TILE_H=height, TILE_W=width,
        TURNS=TURNS, PAIRS=pairs, BLOCK=layer.block,
        BLOCKS_PER_SM=BLOCKS_PER_SM, SHARED=layer.shared,
    )  # fmt: skip


def _in_strides(count: Any, multiprocessors: Any, each: int = _THREADS) -> LaunchConfig:
    """Return a grid whose blocks take ``each`` of ``count`` at a time, not larger than `_WAVES` blocks each."""
    blocks, most = cdiv(count, each), _WAVES * multiprocessors
    return LaunchConfig((cdiv(blocks, cdiv(blocks, most)), 1, 1), (_THREADS, 1, 1))


BIAS = Kernel(
    name="convkit_bias",
    source=_FOLDER / "bias.cu",
    arguments=(
        Argument("x", "T", output=True, alignment=16),
        Argument("bias", "T", alignment=16),
        Argument("pieces", "int64", pointer=False),
    ),
    sizes=("pieces", "multiprocessors"),
    launch_config=lambda pieces, multiprocessors: _in_strides(pieces, multiprocessors),
    constants=("T", "CHANNELS", "RELU"),
    limit=ResourceLimit(registers=40, static_smem_bytes=0),
)
"""x += bias, through a ReLU with RELU. A piece is eight values."""

MAX_POOL = Kernel(
    name="convkit_max_pool",
    source=_FOLDER / "max_pool.cu",
    arguments=(
        Argument("x", "T", alignment=16),
        Argument("out", "T", output=True, alignment=16),
        Argument("pieces", "int64", pointer=False),
        *(
            Argument(name, "int32", pointer=False)
            for name in ("height", "width", "channels", "out_height", "out_width")
        ),
    ),
    sizes=("pieces", "multiprocessors"),
    launch_config=lambda pieces, multiprocessors: _in_strides(pieces, multiprocessors),
    constants=(*("T", "KERNEL_Y", "KERNEL_X", "STRIDE_Y", "STRIDE_X", "PAD_Y", "PAD_X", "DILATION_Y", "DILATION_X"),),
    limit=ResourceLimit(registers=64, static_smem_bytes=0),
)
"""Max pooling. A piece is eight channels of an output."""

FEW_FILTERS = Kernel(
    name="convkit_few_filters",
    source=_FOLDER / "few_filters.cu",
    arguments=(
        Argument("x", "T", alignment=16),
        Argument("weight", "T"),
        Argument("bias", "T"),
        Argument("out", "T", output=True),
        Argument("pixels", "int64", pointer=False),
        Argument("pitch", "int32", pointer=False),
    ),
    sizes=("pixels", "multiprocessors"),
    launch_config=lambda pixels, multiprocessors: _in_strides(pixels, multiprocessors, _THREADS // 8),
    constants=("T", "CHANNELS", "FILTERS"),
    limit=ResourceLimit(registers=96),
)
"""A convolution of 1 x 1 with at most 8 filters."""

DEPTHWISE_TRANSPOSED = Kernel(
    name="convkit_depthwise_transposed",
    source=_FOLDER / "depthwise_transposed.cu",
    arguments=(
        Argument("x", "T", alignment=16),
        Argument("weight", "T", alignment=16),
        Argument("bias", "T"),
        Argument("out", "T", output=True, alignment=16),
        Argument("pieces", "int64", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("height", "width", "out_height", "out_width")),
    ),
    sizes=("pieces", "multiprocessors"),
    launch_config=lambda pieces, multiprocessors: _in_strides(pieces, multiprocessors),
    constants=("T", "CHANNELS", "KERNEL_Y", "KERNEL_X", "STRIDE_Y", "STRIDE_X", "PAD_Y", "PAD_X", "BIAS", "RELU"),
    limit=ResourceLimit(registers=64, static_smem_bytes=0),
)
"""A transposed convolution with one filter a channel. A piece is eight channels of an output."""
