"""Weights in the graph, in the order in which the kernels read them; and back, by the definition of that order."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.errors import PluginError
from convkit_plugins.dcnv2.tensorrt._aot_settings import AotSettings, WeightOrder
from convkit_plugins.dcnv2.tensorrt._aot_tactics import COLUMNS, padded_filters

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["pack", "packed_size", "unpack"]

_CHUNK = 16
"""Channels to a multiple of which ``plain.cu`` wants each offset group padded."""


def packed_size(settings: AotSettings) -> int:
    """Return the number of elements of the packed weights."""
    channels = _padded_channels(settings)
    return padded_filters(settings) * settings.layer.taps * channels


def pack(weight: np.ndarray, settings: AotSettings) -> np.ndarray:
    """Return ``weight`` [O, C, kh, kw] for the kernels: flat and of the same type, 16 or 32 bits wide.

    It becomes an initializer of the graph: TensorRT gives a plugin no place and no time to pack weights itself.
    """
    import torch

    from convkit_plugins.dcnv2.cuda import pack_for_mma, pack_for_plain

    layer = settings.layer
    filled = np.zeros((padded_filters(settings), *weight.shape[1:]), weight.dtype)
    filled[: layer.filters] = weight
    # 16-bit types are only moved, so their bits will do; PyTorch takes no bfloat16 from NumPy.
    tensor = torch.from_numpy(filled if weight.itemsize == 4 else filled.view(np.int16))
    if settings.order == WeightOrder.PLAIN:
        packed = pack_for_plain(tensor, layer.groups, COLUMNS)
    else:
        packed = pack_for_mma(tensor, COLUMNS)
    return packed.contiguous().numpy().view(weight.dtype)


def unpack(packed: Tensor, settings: AotSettings) -> Tensor:
    """Return the weights [O, C, kh, kw] that are packed in a flat tensor of any type.

    It asks the definition of the order where each weight is, and nothing that packed them: it is what shows that they
    are where the kernels look for them.

    Raises:
        PluginError: the tensor is of another size.
    """
    import torch

    shape = (settings.layer.filters, settings.channels, *settings.layer.kernel)
    if packed.numel() != packed_size(settings):
        raise PluginError(
            f"{packed.numel()} packed weights; a layer of {list(shape)} has {packed_size(settings)}.",
            hint="Build the engine again, by the version of convkit that is installed.",
        )
    return packed.flatten()[torch.from_numpy(_places(settings)).to(packed.device)].reshape(shape)


@lru_cache(maxsize=32)
def _places(settings: AotSettings) -> np.ndarray:
    """Return where each weight is, [O, C, kh kw]."""
    layer = settings.layer
    o, c, tap = np.ogrid[: layer.filters, : settings.channels, : layer.taps]
    place = _plain_place if settings.order == WeightOrder.PLAIN else _tensor_place
    return np.ascontiguousarray(place(settings, o, c, tap))


def _padded_channels(settings: AotSettings) -> int:
    groups = settings.layer.groups
    if settings.order == WeightOrder.PLAIN:
        return groups * (-(-(settings.channels // groups) // _CHUNK) * _CHUNK)
    chunk = 128 // settings.order
    return -(-settings.channels // chunk) * chunk


def _plain_place(settings: AotSettings, o: Any, c: Any, tap: Any) -> Any:
    """Return where ``plain.cu`` reads a weight: [o / 32][group][tap][channel of the group][o % 32]."""
    members, padded = settings.channels // settings.layer.groups, _padded_channels(settings)
    group, member = c // members, c % members
    step = (o // COLUMNS * settings.layer.groups + group) * settings.layer.taps + tap
    return (step * (padded // settings.layer.groups) + member) * COLUMNS + o % COLUMNS


def _tensor_place(settings: AotSettings, o: Any, c: Any, tap: Any) -> Any:
    """Return where ``tensor.cu`` reads a weight.

    Tiles are 32 output channels times 128 bytes of input channels: [o / 32][128 bytes][tap]. Of a tile, thread 4 n + q
    of a warp reads 16 bytes for each j and each half of the 128 bytes: [j][half][n][q][piece of 16 bytes]. They belong
    to column 8 j + n of the product, which is output channel 8 (n / 2) + 2 j + n % 2; input channels are in order.
    """
    size = int(settings.order)
    chunk, piece = 128 // size, 16 // size
    chunks = -(-settings.channels // chunk)
    tile = (o // COLUMNS * chunks + c // chunk) * settings.layer.taps + tap
    j, n = o % 8 // 2, o % COLUMNS // 8 * 2 + o % 2
    half, q = c % chunk // (chunk // 2), c % (chunk // 2) // piece
    return tile * (COLUMNS * chunk) + (((j * 2 + half) * 8 + n) * 4 + q) * piece + c % piece
