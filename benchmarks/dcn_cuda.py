"""The deformable convolution on a GPU: forward, and forward with backward, as in fine-tuning.

Needs PyTorch with CUDA. Medians of CUDA event times; float32, batch 32, TF32 off unless --tf32.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from convkit_plugins.dcnv2 import DCN

LAYERS = ((512, 256, 16), (256, 128, 32), (128, 64, 64), (64, 64, 128))
"""Input channels, output channels and side of the map; the first three are those of resdcn_18 at 512x512."""


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of ``call`` on the GPU after five warm-up calls."""
    times = []
    for turn in range(repeats + 5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if turn >= 5:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def largest_error(layer: DCN, image: torch.Tensor) -> float:
    """Return the relative L2 distance of the GPU's float32 result from the CPU's float64 one."""
    import copy

    with torch.no_grad():
        exact = copy.deepcopy(layer).double().cpu()(image.double().cpu())
        found = layer(image).double().cpu()
    return float((found - exact).norm() / exact.norm())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in matrix products")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {options.batch}, TF32 {options.tf32}\n")
    print("| layer | forward ms | forward and backward ms | peak GiB | relative L2 from float64 |")
    print("|---|---|---|---|---|")
    for channels, width, side in LAYERS:
        layer = DCN(channels, width, 3, 1, 1).cuda()
        torch.nn.init.normal_(layer.conv_offset_mask.bias, std=2.0)
        image = torch.randn(options.batch, channels, side, side, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        with torch.no_grad():
            forward = milliseconds(lambda: layer(image), options.repeats)  # noqa: B023 - called at once
        both = milliseconds(lambda: layer(image).sum().backward(), options.repeats)  # noqa: B023
        peak = torch.cuda.max_memory_allocated() / 2**30
        error = largest_error(layer, image[:2].detach())
        print(f"| {channels} to {width}, {side}x{side} | {forward:.1f} | {both:.1f} | {peak:.1f} | {error:.1e} |")


if __name__ == "__main__":
    main()
