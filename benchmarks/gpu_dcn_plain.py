"""The plain kernel of the deformable convolution on a GPU: every tile, beside torchvision's operator.

Needs PyTorch with CUDA, cupy and torchvision. Medians of CUDA-graph replays, of torchvision's operator of calls in the
GPU's queue (gpu_timing.py); 3x3, padding 1, TF32 off. torchvision's time leaves out the sigmoid, which ours includes.
Errors are relative L2 distances from float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from gpu_dcn import graph_microseconds
from gpu_timing import queued_microseconds
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from convkit.cuda import ArrayView, load
from convkit_plugins.dcnv2.cuda import (
    PLAIN,
    TILES,
    Layer,
    Tile,
    can_load_four,
    pack_for_plain,
    plain_scalars,
    tile_for,
)
from convkit_plugins.dcnv2.op import compute

SHAPES = ((64, 64, 128, 8), (256, 128, 32, 8), (512, 256, 16, 1), (512, 256, 16, 8))
"""Input channels, filters, side of the map and batch."""
MORE_TILES = (
    Tile(128, 128, 8, 8),
    Tile(64, 128, 8, 8),
    Tile(64, 64, 4, 8),
    Tile(32, 64, 4, 4),
    Tile(32, 32, 4, 4),
    Tile(32, 32, 4, 4, 2),
    Tile(64, 64, 8, 4, 2),
    Tile(32, 64, 4, 4, 3),
)
"""Tiles that are tried besides those of the tests."""


def prepare(
    layer: Layer, x: Tensor, raw: Tensor, weight: Tensor, bias: Tensor, out: Tensor, tile: Tile
) -> Callable[[], None]:
    """Return a call that launches the kernel once."""
    dtype = str(x.dtype).removeprefix("torch.")
    packed = pack_for_plain(weight, layer.groups, tile.filters)
    four = can_load_four(layer, ArrayView.of("x", x))
    constants = {name.upper(): value for name, value in tile._asdict().items()}
    launcher = load(PLAIN.variant(T=dtype, SIGMOID=True, RELU=False, VECTOR=four, **constants))
    config = launcher.launch_config(
        batch=out.shape[0], filters=out.shape[1], out_height=out.shape[2], out_width=out.shape[3]
    )
    offset, mask = raw[:, : raw.shape[1] // 3 * 2], raw[:, raw.shape[1] // 3 * 2 :]
    views = [ArrayView.of("tensor", tensor) for tensor in (x, offset, mask, out)]
    args = (x, offset, mask, packed, bias, out, *plain_scalars(layer, *views))
    return lambda: launcher(config, *args)


def measure(channels: int, filters: int, side: int, batch: int, dtype: torch.dtype, form: torch.memory_format) -> None:
    """Print a row of the table: torchvision, the tile that is chosen, and the three fastest."""
    torch.manual_seed(0)
    shapes = ((batch, channels, side, side), (batch, 27, side, side), (filters, channels, 3, 3), (filters,))
    x, raw, weight, bias = (torch.randn(shape, device="cuda").to(dtype) for shape in shapes)
    weight /= 3 * channels**0.5
    x, raw = x.contiguous(memory_format=form), raw.contiguous(memory_format=form)
    offset, mask = raw[:, :18].contiguous(), raw[:, 18:].sigmoid().contiguous()
    dense = x.contiguous()
    theirs = partial(torchvision_deform_conv2d, dense, offset, weight, bias, padding=1, mask=mask)
    peer = queued_microseconds(theirs, times=20, repeats=9)
    exact = compute(
        *(x.double(), weight.double(), raw[:, :18].double(), bias.double(), raw[:, 18:].double().sigmoid()),
        *((1, 1), (1, 1), (1, 1), 1),
    )
    out = torch.empty_like(exact, dtype=dtype, memory_format=form)
    times, errors = {}, []
    for tile in (*TILES, *MORE_TILES):
        out.fill_(float("nan"))
        call = prepare(Layer(filters, (3, 3), padding=(1, 1)), x, raw, weight, bias, out, tile)
        times[tile] = graph_microseconds(call)
        errors.append(float((out - exact).norm() / exact.norm()))
    worst = torch.tensor(errors).max()  # unlike Python's max it keeps a NaN
    chosen = tile_for(batch * side * side, filters)
    best = ", ".join(
        f"{'x'.join(map(str, tile))} {times[tile]:.1f}" for tile in sorted(times, key=times.__getitem__)[:3]
    )
    name = "channels-last" if form == torch.channels_last else "NCHW"
    print(
        f"| {channels}->{filters} @ {side}, b{batch} | {str(dtype).removeprefix('torch.')} | {name} | {peer:.1f} | "
        f"{'x'.join(map(str, chosen))} {times[chosen]:.1f} | {best} | {worst:.1e} |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="+", choices=("float32", "float16"), default=("float32", "float16"))
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds\n")
    print("| layer | type | layout | torchvision | chosen tile | fastest tiles | largest error |")
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for dtype in options.types:
            for form in (torch.channels_last, torch.contiguous_format):
                measure(*shape, getattr(torch, dtype), form)


if __name__ == "__main__":
    main()
