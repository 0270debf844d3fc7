"""Variants of the kernels of the torch backend."""

from __future__ import annotations

from convkit.backends.torch._kernels import (
    BIAS,
    DEPTHWISE_TRANSPOSED,
    FEW_FILTERS,
    MAX_POOL,
    FirstLayer,
    first_layer_variant,
)
from convkit.cuda import Variant

__all__ = ["FIRST_LAYERS", "torch_kernel_variants"]

FIRST_LAYERS = {
    "resnet": FirstLayer(64, 3, 7, 2, 3, pool=True),
    "hourglass": FirstLayer(128, 3, 7, 2, 3, pool=False),
    "dla": FirstLayer(16, 3, 7, 1, 3, pool=False),
    "gray": FirstLayer(48, 1, 3, 1, 1, pool=True),
    "four channels": FirstLayer(32, 4, 5, 3, 0, pool=False),
}

_WINDOW = {"KERNEL": 3, "STRIDE": 2, "PAD": 1, "DILATION": 1}


def torch_kernel_variants() -> list[Variant]:
    """Return variants of every kernel, in both types."""
    found = []
    for dtype in ("float16", "bfloat16"):
        found += [first_layer_variant(layer, dtype, pairs=dtype == "float16") for layer in FIRST_LAYERS.values()]
        found += [
            BIAS.variant(T=dtype, CHANNELS=channels, RELU=relu) for channels in (32, 256) for relu in (False, True)
        ]
        window = {f"{name}_{axis}": size for name, size in _WINDOW.items() for axis in "YX"}
        found.append(MAX_POOL.variant(T=dtype, **window))
        for kernel in (4, 16):
            scaled = {"KERNEL": kernel, "STRIDE": kernel // 2, "PAD": kernel // 4}
            up = {f"{name}_{axis}": size for name, size in scaled.items() for axis in "YX"}
            found.append(DEPTHWISE_TRANSPOSED.variant(T=dtype, CHANNELS=64, BIAS=kernel == 4, RELU=kernel == 4, **up))
        found += [FEW_FILTERS.variant(T=dtype, CHANNELS=64, FILTERS=filters) for filters in (2, 8)]
    return found
