"""Weights in the order in which the kernels of the deformable convolution read them."""

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

    A tile holds 64 channels of one tap for ``columns`` output channels; taps follow each other before channels do.
    Within a tile, rows are output channels and 16-byte pieces are swizzled for the matrix instruction. Thread q of
    four shall have, in the result, 8 neighbouring output channels of every 32: rows are permuted so that these are the
    ones the instruction gives it. Missing channels are zero.
    """
    tiles = _tiles(weight, columns)  # [outputs, inputs, tap, row, channel]
    order = torch.arange(32, device=weight.device)
    # Position 8 j + 2 q + e of 32 output channels holds channel 8 q + 2 j + e.
    rows = order % 8 // 2 * 8 + order // 8 * 2 + order % 2
    shape = tiles.shape
    outer, inner = shape[:3], shape[4]
    tiles = tiles.view(*outer, columns // 32, 32, inner)[..., rows, :]
    pieces = tiles.reshape(*outer, columns, 8, 8)
    row = torch.arange(columns, device=weight.device)[:, None]
    swizzled = torch.arange(8, device=weight.device)[None, :] ^ (row % 8)
    return pieces.gather(4, swizzled[None, None, None, :, :, None].expand_as(pieces)).flatten()


def pack_for_mma(weight: Tensor, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] as the tiles of ``tensor.cu``: flat, of the same dtype (16 or 32 bits).

    A tile holds 128 bytes of channels of one tap for ``columns`` output channels; taps follow each other before
    channels do. Within a tile come, for every 8 output channels and every 64 bytes, the 16 bytes of each of 32
    threads: thread 4 n + q has those from 16 q on of output channel n. Output channels are permuted within 32, so that
    a thread's results are neighbours. Missing channels are zero. float32 is rounded to the 10 bits of TF32.
    """
    if weight.dtype == torch.float32:
        rounded = ((weight.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
        weight = rounded.masked_fill(weight.isnan(), torch.nan)  # with all bits set, it would have become zero
    tiles = _tiles(weight, columns)
    order = torch.arange(32, device=weight.device)
    rows = order % 8 // 2 * 8 + order // 8 * 2 + order % 2
    shape = tiles.shape
    tiles = tiles.view(*shape[:3], columns // 32, 32, shape[4])[..., rows, :]
    piece = 16 // weight.element_size()
    # [outputs, inputs, tap, block of 8, n, half, q, piece] to [..., block, half, n, q, piece]
    pieces = tiles.reshape(*shape[:3], columns // 8, 8, 2, 4, piece)
    return pieces.transpose(4, 5).flatten()


def _tiles(weight: Tensor, columns: int) -> Tensor:
    """Return [O / columns, C / chunk, kh * kw, columns, chunk], filled up with zeros; a chunk is 128 bytes."""
    filters, channels, kh, kw = weight.shape
    chunk = 128 // weight.element_size()
    outputs, inputs = -(-filters // columns), -(-channels // chunk)
    padded = weight.new_zeros((outputs * columns, inputs * chunk, kh * kw))
    padded[:filters, :channels] = weight.flatten(2)
    return padded.view(outputs, columns, inputs, chunk, kh * kw).permute(0, 2, 4, 1, 3).contiguous()


def pack_for_plain(weight: Tensor, groups: int, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] as `pack_plain` lays it out for ``plain.cu``, on the weight's own device."""
    filters, channels, kh, kw = weight.shape
    members, tiles = channels // groups, -(-filters // columns)
    padded = -(-members // PLAIN_CHUNK) * PLAIN_CHUNK
    packed = weight.new_zeros((tiles * columns, groups, kh * kw, padded))
    packed[:filters, ..., :members] = weight.reshape(filters, groups, members, kh * kw).transpose(2, 3)
    return packed.view(tiles, columns, groups, kh * kw, padded).permute(0, 2, 3, 4, 1).flatten()


class PackedWeights:
    """Packed copies of weights, each made once and again, in the same memory, when the weight has changed in place.

    A CUDA graph reads the copy that its capture has found: its replays see a change once a call outside of it has come
    to the weight. A copy made during a capture is not kept, because it holds nothing before the graph is replayed; the
    graph then packs each time. Changes through ``weight.data.copy_`` and its like are not seen, as PyTorch does not
    count them.
    """

    def __init__(self) -> None:
        self._copies: Any = WeakTensorKeyDictionary()

    def get(self, weight: Tensor, key: Hashable, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``pack(weight)``; ``key`` tells apart the ways to pack."""
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
