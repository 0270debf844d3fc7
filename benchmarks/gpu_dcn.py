"""The deformable convolution on a GPU beside what one would use instead, and what bounds it.

Microseconds a call by replay of a CUDA graph, float16, 3x3, stride 1, on data that stays in the L2 cache where it fits.
torchvision's operator cannot be captured (gpu_timing.py): twenty calls of it wait in the queue of the GPU.
Ours reads the raw 27 channels of the offset convolution, applies the sigmoid and works on channels-last memory;
torchvision gets offsets, masks after the sigmoid, and NCHW memory, which is what it needs. The dense convolution is
cuDNN's, channels-last, the fastest algorithm that it finds. ONNX Runtime runs DeformConv with I/O binding, if its build
has CUDA.
"""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from gpu_timing import queued_microseconds
from torch import Tensor

from convkit_plugins.dcnv2.op import compute, dcnv2

LAYERS = ((512, 256, 16), (256, 128, 32), (128, 64, 64), (64, 64, 128), (128, 128, 64), (256, 256, 32))
"""Input channels, output channels, and side of the map."""
BATCHES = (1, 8, 32)
SPREAD = 2.0
"""Standard deviation of the offsets in pixels."""


def graph_microseconds(call: Callable[[], object], calls: int = 20, repeats: int = 9) -> float:
    """Return the median time of a call within a replayed CUDA graph of many."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            call()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / calls)
    return statistics.median(times)


class Case:
    """One layer and batch with random tensors."""

    def __init__(self, channels: int, filters: int, side: int, batch: int) -> None:
        generator = torch.Generator("cuda").manual_seed(batch)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, device="cuda", generator=generator)

        self.channels, self.filters, self.side, self.batch = channels, filters, side, batch
        last = torch.channels_last
        self.x = normal(batch, channels, side, side).half().contiguous(memory_format=last)
        raw = normal(batch, 27, side, side)
        raw[:, :18] *= SPREAD
        self.raw = raw.half().contiguous(memory_format=last)
        self.weight = (normal(filters, channels, 3, 3) / math.sqrt(9 * channels)).half()
        self.bias = normal(filters).half()

    def ours(self, *, blend_fp32: bool) -> float:
        """Return the time of the fused kernel, which blends samples in float32 or float16."""
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = not blend_fp32
        return graph_microseconds(lambda: dcnv2(self.x, self.raw, self.weight, self.bias, 1, 1))

    def error(self) -> float:
        """Return the relative L2 distance of the first image from the same in float64."""
        x, raw, weight, bias = (tensor.double() for tensor in (self.x[:1], self.raw[:1], self.weight, self.bias))
        wanted = compute(x, weight, raw[:, :18], bias, raw[:, 18:].sigmoid(), (1, 1), (1, 1), (1, 1), 1)
        found = dcnv2(self.x, self.raw, self.weight, self.bias, 1, 1)[:1].double()
        return float((found - wanted).norm() / wanted.norm())

    def dense(self) -> float:
        """Return the time of the ordinary convolution of the same shape."""
        weight = self.weight.contiguous(memory_format=torch.channels_last)
        torch.backends.cudnn.benchmark = True
        return graph_microseconds(lambda: F.conv2d(self.x, weight, self.bias, padding=1))

    def torchvision(self) -> float:
        """Return the time of torchvision's operator, sigmoid and change of layout left out."""
        from torchvision.ops import deform_conv2d

        x, offset = self.x.contiguous(), self.raw[:, :18].contiguous()
        mask = self.raw[:, 18:].sigmoid().contiguous()
        call = partial(deform_conv2d, x, offset, self.weight, self.bias, padding=1, mask=mask)
        return queued_microseconds(call, times=20, repeats=9)

    def onnxruntime(self) -> float:
        """Return the time of ONNX Runtime's DeformConv on CUDA, or NaN where this build has none."""
        from convkit._onnxruntime import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return math.nan
        return _onnxruntime(self)

    def bounds(self, clock: float, multiprocessors: int) -> tuple[float, float, float]:
        """Return what device memory, tensor cores and the L1 cache need at least, in microseconds.

        Bytes: every tensor once, at 3.35 TB/s (H100). Products: 2048 float16 multiply-adds a multiprocessor and cycle
        (Hopper). L1: the lines of 128 bytes of four corners a tap, one a cycle. ``clock`` is in GHz.
        """
        pixels = self.batch * self.side**2
        numbers = pixels * (self.channels + self.filters + 27) + self.weight.numel()
        cycles = clock * 1e3 * multiprocessors  # of all multiprocessors in a microsecond
        products = pixels * self.filters * self.channels * 9
        lines = pixels * 9 * 4 * math.ceil(self.channels / 64)
        return 2 * numbers / 3.35e6, products / (2048 * cycles), lines / cycles


def _onnxruntime(case: Case) -> float:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    from convkit._onnxruntime import onnxruntime

    sides = (case.side, case.side)
    half, batch = TensorProto.FLOAT16, case.batch
    shapes = {"x": (batch, case.channels, *sides), "offset": (batch, 18, *sides), "mask": (batch, 9, *sides)}
    node = helper.make_node("DeformConv", ["x", "w", "offset", "b", "mask"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, half, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", half, (batch, case.filters, *sides))],
        [
            numpy_helper.from_array(case.weight.cpu().numpy(), "w"),
            numpy_helper.from_array(case.bias.cpu().numpy(), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=[("CUDAExecutionProvider", {"enable_cuda_graph": "1"})]
    )
    tensors = {
        "x": case.x.contiguous(),
        "offset": case.raw[:, :18].contiguous(),
        "mask": case.raw[:, 18:].sigmoid().contiguous(),
    }
    output = torch.empty(batch, case.filters, *sides, device="cuda", dtype=torch.float16)
    binding = session.io_binding()
    for name, tensor in tensors.items():
        binding.bind_input(name, "cuda", 0, np.float16, tuple(tensor.shape), tensor.data_ptr())
    binding.bind_output("y", "cuda", 0, np.float16, tuple(output.shape), output.data_ptr())
    for _ in range(5):
        session.run_with_iobinding(binding)
    times = []
    for _ in range(30):
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            session.run_with_iobinding(binding)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 100)
    return statistics.median(times)


def rows(peers: bool) -> Iterator[list[str]]:
    """Yield one row of the table after the other, and the geometric means last."""
    properties = torch.cuda.get_device_properties(0)
    ratios: dict[str, list[float]] = {}
    for channels, filters, side in LAYERS:
        for batch in BATCHES:
            case = Case(channels, filters, side, batch)
            single, half = case.ours(blend_fp32=True), case.ours(blend_fp32=False)
            dense = case.dense() if peers else math.nan
            vision = case.torchvision() if peers else math.nan
            runtime = case.onnxruntime() if peers else math.nan
            for name, value in (
                ("dense", half / dense),
                ("torchvision", vision / half),
                ("onnxruntime", runtime / half),
            ):
                ratios.setdefault(name, []).append(value)
            bounds = case.bounds(torch.cuda.clock_rate() / 1000, properties.multi_processor_count)
            yield [
                f"{channels} to {filters} at {side}",
                str(batch),
                *(f"{value:.1f}" for value in (half, single, dense, vision, runtime)),
                f"{half / dense:.2f}",
                f"{vision / half:.2f}",
                f"{runtime / half:.1f}",
                f"{case.error():.1e}",
                *(f"{bound:.1f}" for bound in bounds),
            ]
    means = {name: math.exp(statistics.fmean(map(math.log, values))) for name, values in ratios.items()}
    yield ["geometric mean", "", "", "", "", "", "", *(f"{means[name]:.2f}" for name in means), "", "", "", ""]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-peers", action="store_true", help="measure the kernels of convkit only")
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__}, offsets sd {SPREAD} px")
    print(f"Command: python {' '.join(sys.argv)}\n")
    head = ["layer", "batch", "ours", "ours, float32 blending", "dense", "torchvision", "ONNX Runtime"]
    head += ["ours / dense", "torchvision / ours", "ONNX Runtime / ours", "relative L2"]
    head += ["bytes", "products", "L1 lines"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    with torch.no_grad():
        for row in rows(not options.no_peers):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
