"""The kernels of the torch backend for 16-bit networks, on a GPU, beside PyTorch's operators for the same nodes.

Shapes are those of ``resdcn_18`` at 512x512 with 80 classes, float16, channels-last. Times are medians of replays of a
CUDA graph that holds one call, in turns. ``error`` is the largest distance of ours from float32 PyTorch, divided by the
largest value. The input of a call is read anew each time, but may lie in the L2 cache (50 MB) where it is small.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gpu_timing import captured, in_turns
from torch import Tensor
from torch.nn import functional as F

from convkit.backends.torch import _gpu
from convkit.backends.torch._kernels import FirstLayer

REPEATS = 40
Call = Callable[[], Any]


def random(*shape: int) -> Tensor:
    """Return values of float16 on the GPU, channels-last where there are four axes."""
    value = torch.randn(shape, device="cuda").mul(0.2).half()
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def cases(batch: int) -> Iterator[tuple[str, Call, Call, Call]]:
    """Yield a name, our call, PyTorch's, and PyTorch's in float32."""
    layer = FirstLayer(64, 3, 7, 2, 3, pool=True)
    x, weight, bias = random(batch, 3, 512, 512), random(64, 3, 7, 7), random(64)
    packed = _gpu.pack_first_layer(layer, weight)
    yield (
        "first layer, ReLU, pooling",
        lambda: _gpu.first_layer(layer, x, packed, bias),
        lambda: F.max_pool2d(torch.cudnn_convolution_relu(x, weight, bias, [2, 2], [3, 3], [1, 1], 1), 3, 2, 1),
        lambda: F.max_pool2d(F.conv2d(x.float(), weight.float(), bias.float(), 2, 3).relu(), 3, 2, 1),
    )
    wide = random(batch, 64, 256, 256)
    yield (
        "max pooling, 64 channels at 256",
        lambda: _gpu.max_pool(wide, (3, 3), (2, 2), (1, 1), (1, 1)),
        lambda: F.max_pool2d(wide, 3, 2, 1),
        lambda: F.max_pool2d(wide.float(), 3, 2, 1),
    )
    map_, scratch = random(batch, 64, 128, 128), random(batch, 64, 128, 128)
    zero = torch.zeros_like(bias)
    yield (
        "bias and ReLU, 64 channels at 128",
        lambda: _gpu.add_bias(scratch, zero, relu=True),
        lambda: (map_ + zero.view(-1, 1, 1)).relu_(),
        lambda: scratch.float().relu(),
    )
    few, added = random(2, 64, 1, 1), random(2)
    yield (
        "2 filters of 1 x 1, 64 channels at 128",
        lambda: _gpu.few_filters(map_, few, added),
        lambda: F.conv2d(map_, few, added),
        lambda: F.conv2d(map_.float(), few.float(), added.float()),
    )


def main() -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    print("| what | batch | ours, us | PyTorch, us | ratio | error |\n|---|---|---|---|---|---|")
    with torch.inference_mode():
        for batch in options.batches:
            for name, ours, theirs, exact in cases(batch):
                right = exact()
                error = float((ours().float() - right).abs().max() / right.abs().max())
                calls = {"ours": captured(ours).replay, "theirs": captured(theirs).replay}
                a, b = in_turns(calls, REPEATS).values()
                print(f"| {name} | {batch} | {a:.1f} | {b:.1f} | {b / a:.2f} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
