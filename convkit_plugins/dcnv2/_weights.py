"""Weights in the order in which the tensor-core kernels of the deformable convolution read them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["pack_for_mma", "pack_for_wgmma"]


def pack_for_wgmma(weight: Tensor, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] (16-bit) as the tiles of ``hopper.cu``: flat, of the same dtype.

    A tile holds 64 channels of one tap for ``columns`` output channels; taps follow each other before channels do.
    Within a tile, rows are output channels and 16-byte pieces are swizzled for the matrix instruction. Thread q of
    four has 8 neighbouring channels of every 32 and, in the result, 8 neighbouring output channels of every 32: rows
    and columns are permuted so that these are the ones the instruction gives it. Missing channels are zero.
    """
    tiles = _tiles(weight, columns)  # [outputs, inputs, tap, row, channel]
    order = torch.arange(32, device=weight.device)
    # Position 8 j + 2 q + e of 32 output channels holds channel 8 q + 2 j + e.
    rows = order % 8 // 2 * 8 + order // 8 * 2 + order % 2
    # Position 16 s + 8 h + 2 q + e of 32 channels holds channel 8 q + 4 s + 2 h + e.
    channels = order % 8 // 2 * 8 + order // 16 * 4 + order // 8 % 2 * 2 + order % 2
    shape = tiles.shape
    tiles = tiles.unflatten(3, (-1, 32))[..., rows, :].unflatten(5, (-1, 32))[..., channels].reshape(shape)
    pieces = tiles.unflatten(4, (8, 8))
    row = torch.arange(columns, device=weight.device)[:, None]
    swizzled = torch.arange(8, device=weight.device)[None, :] ^ (row % 8)
    return pieces.gather(4, swizzled[None, None, None, :, :, None].expand_as(pieces)).flatten()


def pack_for_mma(weight: Tensor, columns: int) -> Tensor:
    """Return ``weight`` [O, C, kh, kw] as the tiles of ``tensor.cu``: flat, of the same dtype (16 or 32 bits).

    A tile holds 128 bytes of channels of one tap for ``columns`` output channels; taps follow each other before
    channels do. Within a tile come, for every 8 output channels and every 64 bytes, the 16 bytes of each of 32
    threads: thread 4 n + q has those from 16 q on of output channel n. Output channels are permuted within 32, so that
    a thread's results are neighbours. Missing channels are zero.
    """
    tiles = _tiles(weight, columns)
    order = torch.arange(32, device=weight.device)
    rows = order % 8 // 2 * 8 + order // 8 * 2 + order % 2
    shape = tiles.shape
    tiles = tiles.unflatten(3, (-1, 32))[..., rows, :].reshape(shape)
    piece = 16 // weight.element_size()
    # [outputs, inputs, tap, block of 8, n, half, q, piece] to [..., block, half, n, q, piece]
    return tiles.unflatten(4, (2, 4, piece)).unflatten(3, (-1, 8)).transpose(4, 5).flatten()


def _tiles(weight: Tensor, columns: int) -> Tensor:
    """Return [O / columns, C / chunk, kh * kw, columns, chunk], filled up with zeros; a chunk is 128 bytes."""
    filters, channels, kh, kw = weight.shape
    chunk = 128 // weight.element_size()
    outputs, inputs = -(-filters // columns), -(-channels // chunk)
    padded = weight.new_zeros((outputs * columns, inputs * chunk, kh * kw))
    padded[:filters, :channels] = weight.flatten(2)
    return padded.view(outputs, columns, inputs, chunk, kh * kw).permute(0, 2, 4, 1, 3).contiguous()
