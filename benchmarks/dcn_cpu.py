"""Time convkit's deformable convolution on the CPU beside other ways to compute it in PyTorch.

    python benchmarks/dcn_cpu.py [--threads 2] [--repeats 20] [--json FILE]

All variants get the same tensors (float32, batch 1, kernel 3 x 3, offsets of 3 px standard deviation)
and take turns, so that a busy moment of the machine hits each of them; the best time counts. The
last three layers are those of CenterNet's resdcn_18 at 512 x 512.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from convkit_plugins.dcnv2 import deform_conv2d

LAYERS = ((64, 64, 128), (256, 256, 16), (512, 256, 16), (256, 128, 32), (128, 64, 64))
"""Input channels, output channels, height and width."""

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def positions(offset: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and x of the nine taps, both [N, 9, H, W], for stride 1 and padding 1."""
    height, width = offset.shape[2:]
    tap = torch.arange(9)
    y = torch.arange(height).view(1, 1, -1, 1) + (tap // 3 - 1).view(1, 9, 1, 1)
    x = torch.arange(width).view(1, 1, 1, -1) + (tap % 3 - 1).view(1, 9, 1, 1)
    return offset[:, 0::2] + y, offset[:, 1::2] + x


def multiply(columns: Tensor, weight: Tensor, bias: Tensor, height: int, width: int) -> Tensor:
    """Return [N, O, H, W] for columns [N, C, 9, H * W]."""
    output = weight.flatten(1) @ columns.flatten(1, 2) + bias[:, None]
    return output.view(-1, len(weight), height, width)


def by_gather(x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Gather the four neighbours of every sample and add them up."""
    batch, channels, height, width = x.shape
    y, x_at = positions(offset)
    top, left = y.floor(), x_at.floor()
    columns = x.new_zeros(batch, channels, 9, height * width)
    for row, share_y in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, share_x in ((left, 1 - (x_at - left)), (left + 1, x_at - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            pixel = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            index = pixel.view(batch, 1, -1).expand(-1, channels, -1)
            values = x.flatten(2).gather(2, index).view_as(columns)
            columns = columns + values * (share_y * share_x * mask * inside).view(batch, 1, 9, -1)
    return multiply(columns, weight, bias, height, width)


def by_grid_sample(x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Let grid_sample interpolate, one tap below the other."""
    batch, channels, height, width = x.shape
    y, x_at = positions(offset)
    grid = torch.stack(((2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1), -1).view(batch, 9 * height, width, 2)
    samples = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    columns = samples.view(batch, channels, 9, -1) * mask.view(batch, 1, 9, -1)
    return multiply(columns, weight, bias, height, width)


def by_convkit(x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Run convkit's operator."""
    return deform_conv2d(x, weight, offset, bias, mask, padding=1)


def without_displacement(x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Run an ordinary convolution of the same size: the lower bound."""
    del offset, mask
    return F.conv2d(x, weight, bias, padding=1)


VARIANTS = {
    "convkit": by_convkit,
    "gather": by_gather,
    "grid_sample": by_grid_sample,
    "plain conv": without_displacement,
}


def make_arguments(inputs: int, outputs: int, size: int) -> Arguments:
    """Return x, weight, offset, bias and mask."""
    torch.manual_seed(0)
    weight = torch.randn(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    offset = torch.randn(1, 18, size, size) * 3
    return torch.randn(1, inputs, size, size), weight, offset, torch.randn(outputs), torch.rand(1, 9, size, size)


def best_times(variants: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the shortest time of each variant in milliseconds."""
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(repeats + 1):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    return best


def measure(layer: tuple[int, int, int], repeats: int) -> dict[str, object]:
    """Return the times of one layer and how far the variants lie from a float64 result."""
    arguments = make_arguments(*layer)
    leaves = tuple(argument.clone().requires_grad_() for argument in arguments)
    with torch.no_grad():
        exact = by_gather(*(argument.double() for argument in arguments))
        errors = {
            name: (run(*arguments) - exact).abs().max().item()
            for name, run in VARIANTS.items()
            if run is not without_displacement
        }
        forward = best_times({name: lambda run=run: run(*arguments) for name, run in VARIANTS.items()}, repeats)
    training = best_times(
        {name: lambda run=run: run(*leaves).sum().backward() for name, run in VARIANTS.items()}, max(3, repeats // 4)
    )
    return {"layer": layer, "forward_ms": forward, "forward_backward_ms": training, "max_error": errors}


def show(rows: list[dict[str, object]], key: str, title: str, form: str) -> None:
    """Print one table."""
    names = list(rows[0][key])
    print(f"\n{title}")
    print("layer".ljust(20) + "".join(name.rjust(13) for name in names))
    for row in rows:
        inputs, outputs, size = row["layer"]
        print(
            f"{inputs}->{outputs} {size}x{size}".ljust(20)
            + "".join(format(row[key][name], form).rjust(13) for name in names)
        )


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(layer, options.repeats) for layer in LAYERS]
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}")
    show(rows, "forward_ms", "forward, ms", ".1f")
    show(rows, "forward_backward_ms", "forward and backward, ms", ".1f")
    show(rows, "max_error", "largest difference from float64", ".1e")
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
