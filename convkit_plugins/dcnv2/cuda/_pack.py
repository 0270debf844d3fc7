"""Weights packed by a kernel, for hosts that have them in GPU memory and no PyTorch.

``kernels/pack.cu`` computes what `pack_for_plain` and `pack_for_mma` compute, except that it does not round float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv, itemsize
from convkit_plugins.dcnv2.cuda._layers import Layer, check_indices
from convkit_plugins.dcnv2.cuda._plain import CHUNK as PLAIN_CHUNK

__all__ = ["PACK", "Packing"]

_THREADS = 256


def _launch_config(total: Any) -> LaunchConfig:
    return LaunchConfig(grid=(cdiv(total, _THREADS), 1, 1), block=(_THREADS, 1, 1))


PACK = Kernel(
    name="convkit_dcnv2_pack",
    source=Path(__file__).parent / "kernels" / "pack.cu",
    arguments=(
        Argument("weight", "T"),
        Argument("packed", "T", output=True),
        *(Argument(name, "int32", pointer=False) for name in ("filters", "channels", "taps", "groups", "count")),
    ),
    sizes=("total",),
    launch_config=_launch_config,
    constants=("T", "MMA", "COLUMNS"),
    limit=ResourceLimit(registers=64),
)
"""The kernel. Constants: T; MMA, whether `TENSOR` or `PLAIN` reads the result; COLUMNS, the output channels of a
tile, a multiple of 32 for the first."""


class Packing(NamedTuple):
    """An order of weights: that of ``tensor.cu`` (``mma``) or of ``plain.cu``, in tiles of ``columns`` filters."""

    mma: bool
    columns: int

    def packed(self, layer: Layer, channels: int, dtype: str) -> int:
        """Return the number of packed values, gaps included."""
        columns = -(-layer.filters // self.columns) * self.columns
        if self.mma:
            chunk = 128 // itemsize(dtype)
            return columns * -(-channels // chunk) * chunk * layer.taps
        members = -(-(channels // layer.groups) // PLAIN_CHUNK) * PLAIN_CHUNK
        return columns * layer.groups * members * layer.taps

    def written(self, layer: Layer, channels: int, dtype: str) -> int:
        """Return the number of values that the kernel writes: the packed ones, a one, and a zero for each filter."""
        return self.packed(layer, channels, dtype) + 1 + layer.filters

    def variant(self, dtype: str) -> Variant:
        """Return the variant of the kernel for weights of a dtype."""
        return PACK.variant(T=dtype, MMA=self.mma, COLUMNS=self.columns)

    def scalars(self, layer: Layer, channels: int, dtype: str) -> tuple[int, ...]:
        """Return the scalar arguments of the kernel.

        Raises:
            KernelArgumentError: there are more values than 32 bits can count.
        """
        check_indices({"the weight": self.written(layer, channels, dtype) + _THREADS})
        return layer.filters, channels, layer.taps, layer.groups, self.packed(layer, channels, dtype)
