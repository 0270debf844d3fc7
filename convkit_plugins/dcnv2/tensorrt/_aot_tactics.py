"""The ways to divide the work of a layer that TensorRT compares, and the packed weights that serve all of them."""

from __future__ import annotations

from functools import lru_cache

from convkit_plugins.dcnv2.cuda import Division, Tile, division_for, tile_for
from convkit_plugins.dcnv2.tensorrt._aot_settings import AotSettings, WeightOrder

__all__ = ["COLUMNS", "divisions", "padded_filters", "tiles"]

COLUMNS = 32
"""Output channels of a packed tile. Kernels with larger tiles read several, so one tensor serves every tactic."""
_PIXELS = (2**8, 2**10, 2**12, 2**14, 2**16, 2**18)
"""Output pixels of a batch; the division that suits each is one of the tactics."""


@lru_cache(maxsize=256)
def divisions(settings: AotSettings) -> tuple[Division, ...]:
    """Return the divisions of ``tensor.cu``, from few pixels to many."""
    found = [division_for(settings.layer, pixels) for pixels in _PIXELS]
    return tuple(dict.fromkeys(division for division in found if division is not None))


@lru_cache(maxsize=256)
def tiles(settings: AotSettings) -> tuple[Tile, ...]:
    """Return the tiles of ``plain.cu``, from few pixels to many."""
    return tuple(dict.fromkeys(tile_for(pixels, settings.layer.filters) for pixels in _PIXELS))


def padded_filters(settings: AotSettings) -> int:
    """Return the output channels with those that fill the tiles of every tactic."""
    if settings.order == WeightOrder.PLAIN:
        widest = max(tile.filters for tile in tiles(settings))
    else:
        widest = max(division.tile_n for division in divisions(settings))  # the others divide it
    return -(-settings.layer.filters // widest) * widest
