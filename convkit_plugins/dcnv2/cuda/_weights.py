"""Weights packed in the order in which the kernels read them, and their cache."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from convkit_plugins.dcnv2.cuda._plain import CHUNK as PLAIN_CHUNK

__all__ = ["PackedWeights", "pack_for_mma", "pack_for_plain", "pack_for_wgmma"]


def pack_for_wgmma(weight: Tensor, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] (16-bit) as the tiles of ``hopper.cu``: flat, of the same dtype.

    A tile holds 64 channels of one tap for ``columns`` output channels; tiles are ordered by output channels, channels
    and taps. Its rows are output channels, permuted within 32 (`_column_order`); the 16-byte pieces of a row are
    swizzled as the matrix instruction reads them. Missing channels are zero.
    """
    tiles = _permuted(_tiles(weight, columns))  # [outputs, inputs, tap, row, channel]
    pieces = tiles.view(*tiles.shape[:4], 8, 8)
    row = torch.arange(columns, device=weight.device)[:, None]
    swizzled = torch.arange(8, device=weight.device)[None, :] ^ (row % 8)
    return pieces.gather(4, swizzled[None, None, None, :, :, None].expand_as(pieces)).flatten()


def pack_for_mma(weight: Tensor, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] as the tiles of ``tensor.cu``: flat, of the same dtype (16 or 32 bits).

    A tile holds 128 bytes of channels of one tap for ``columns`` output channels; tiles are ordered by output channels,
    channels and taps. It contains, for every 8 output channels and every 64 bytes, 16 bytes for each of 32 threads:
    thread 4 n + q has bytes 16 q to 16 q + 15 of output channel n. Output channels are permuted within 32
    (`_column_order`). Missing channels are zero. float32 is rounded to the 10 bits of TF32.
    """
    if weight.dtype == torch.float32:
        rounded = ((weight.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
        weight = rounded.masked_fill(weight.isnan(), torch.nan)  # with all bits set, it would have become zero
    tiles = _permuted(_tiles(weight, columns))
    piece = 16 // weight.element_size()
    # [outputs, inputs, tap, block of 8, n, half, q, piece] to [..., block, half, n, q, piece]
    pieces = tiles.reshape(*tiles.shape[:3], columns // 8, 8, 2, 4, piece)
    return pieces.transpose(4, 5).flatten()


def _column_order(device: torch.device) -> Tensor:
    """Return which of 32 output channels each column of a matrix product computes.

    Thread q of four has columns 2 q and 2 q + 1 of every 8. Column 8 j + 2 q + e computes channel 8 q + 2 j + e, so
    that the four pairs of a thread are 8 neighbouring channels. ``epilogue.cuh`` inverts this order.
    """
    column = torch.arange(32, device=device)
    return column % 8 // 2 * 8 + column // 8 * 2 + column % 2


def _permuted(tiles: Tensor) -> Tensor:
    """Return tiles [outputs, inputs, tap, columns, channels] with their columns in the order of `_column_order`."""
    outputs, inputs, taps, columns, channels = tiles.shape
    blocks = tiles.view(outputs, inputs, taps, columns // 32, 32, channels)
    return blocks[..., _column_order(tiles.device), :].reshape(tiles.shape)


def _tiles(weight: Tensor, columns: int) -> Tensor:
    """Return [O / columns, C / chunk, kh * kw, columns, chunk], padded with zeros; a chunk is 128 bytes."""
    filters, channels, kh, kw = weight.shape
    chunk = 128 // weight.element_size()
    outputs, inputs = -(-filters // columns), -(-channels // chunk)
    padded = weight.new_zeros((outputs * columns, inputs * chunk, kh * kw))
    padded[:filters, :channels] = weight.flatten(2)
    return padded.view(outputs, columns, inputs, chunk, kh * kw).permute(0, 2, 4, 1, 3).contiguous()


def pack_for_plain(weight: Tensor, groups: int, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] as ``plain.cu`` reads it: flat, of the same dtype.

    It is [tiles, groups, kh * kw, channels of a group, ``columns`` output channels]; the channels are padded to a
    multiple of `CHUNK` and the output channels to whole tiles, with zeros.
    """
    filters, channels, kh, kw = weight.shape
    members, tiles = channels // groups, -(-filters // columns)
    padded = -(-members // PLAIN_CHUNK) * PLAIN_CHUNK
    packed = weight.new_zeros((tiles * columns, groups, kh * kw, padded))
    packed[:filters, ..., :members] = weight.reshape(filters, groups, members, kh * kw).transpose(2, 3)
    return packed.view(tiles, columns, groups, kh * kw, padded).permute(0, 2, 3, 4, 1).flatten()


class PackedWeights:
    """Packed copies of weights. A copy is made once, and made again in the same memory after an in-place change.

    A captured CUDA graph reads the copy that existed at its capture. Its replays use a changed weight only after an
    ordinary (uncaptured) call has packed it again. A copy made during a capture is not kept, since it is empty before
    the graph is replayed: that graph packs at every replay. PyTorch does not count changes through
    ``weight.data.copy_`` and the like, so these are not noticed.
    """

    def __init__(self) -> None:
        self._copies: Any = WeakTensorKeyDictionary()

    def get(self, weight: Tensor, key: Hashable, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``pack(weight)``, from the copy that was made with the same ``key`` where it is up to date."""
        state = (weight.data_ptr(), weight._version if not weight.is_inference() else 0)
        copies: dict[Hashable, tuple[object, Tensor]] | None = self._copies.get(weight)
        known, copy = copies.get(key, (None, None)) if copies else (None, None)
        if copy is not None and known == state:
            return copy
        with torch.inference_mode():
            packed = pack(weight.detach())
            if _is_capturing(weight):
                return packed
            if copy is not None and (copy.shape, copy.dtype, copy.device) == (
                packed.shape,
                packed.dtype,
                packed.device,
            ):
                packed = copy.copy_(packed)
        if copies is None:
            copies = self._copies[weight] = {}
        copies[key] = state, packed
        return packed


def _is_capturing(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
