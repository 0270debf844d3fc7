"""What a launch costs the caller: cupy's own ways and convkit's launcher, on arrays, tensors and addresses.

Needs PyTorch with CUDA and cupy. Times are of the host, the best of 15 rounds of 300 launches of a kernel with five
arguments and one block, without waiting in between. "driver alone" is the driver's call through cupy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cupy
import numpy as np
import torch
from cupy.cuda.function import Module

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.sample_kernels import SCALE

from convkit.cuda import load


def cases() -> Mapping[str, Callable[[], object]]:
    """Return the ways to launch the same kernel."""
    variant = SCALE.variant(T="float32", THREADS=64)
    ours = load(variant)
    launch = ours.launch_config(count=256)
    module = Module()
    module.load(ours.compiled.code)
    function = module.get_function("test_scale")
    raw = cupy.RawKernel(variant.text().replace("test_scale", "raw"), "raw", options=("-std=c++17",))
    pixels, output = cupy.zeros(256, "uint8"), cupy.zeros(256, "float32")
    tensors = torch.zeros(256, dtype=torch.uint8, device="cuda"), torch.zeros(256, device="cuda")
    rest, scalars = (256, 0.5, 0), (np.int32(256), np.float32(0.5), np.int64(0))
    side, own = torch.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    grid, block = (1, 1, 1), (64, 1, 1)
    return {
        "cupy Function, arrays": lambda: function(grid, block, (pixels, output, *scalars)),
        "cupy Function, addresses": lambda: function(grid, block, (pixels.data.ptr, output.data.ptr, *scalars)),
        "cupy RawKernel, arrays": lambda: raw((1,), (64,), (pixels, output, *scalars)),
        "ours, arrays": lambda: ours(launch, pixels, output, *rest),
        "ours, arrays, address of a stream": lambda: ours(launch, pixels, output, *rest, stream=0),
        "ours, arrays, cupy stream": lambda: ours(launch, pixels, output, *rest, stream=own),
        "ours, tensors": lambda: ours(launch, *tensors, *rest),
        "ours, tensors, address of a stream": lambda: ours(launch, *tensors, *rest, stream=0),
        "ours, tensors, torch stream": lambda: ours(launch, *tensors, *rest, stream=side),
        "ours, addresses": lambda: ours(launch, pixels.data.ptr, output.data.ptr, *rest, stream=0),
        "ours, launch configuration and arrays": lambda: ours(
            ours.launch_config(count=256), pixels, output, *rest, stream=0
        ),
        # the arguments are those of the launch before
        "driver alone": lambda: cupy.cuda.driver.launchKernel(
            ours._function, *grid, *block, 0, 0, ours._local.slots[1], 0
        ),
        "load(variant), loaded before": lambda: load(variant),
    }


def measure(call: Callable[[], object]) -> float:
    """Return the microseconds of one call."""
    best = float("inf")
    for _ in range(15):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(300):
            call()
        best = min(best, (time.perf_counter() - start) / 300)
    return best * 1e6


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cupy {cupy.__version__}\n")
    print("| way | us |\n|---|---|")
    for name, call in cases().items():
        call()
        print(f"| {name} | {measure(call):.2f} |")


if __name__ == "__main__":
    main()
