"""The TensorRT-RTX plugin of the deformable convolution on a GPU without TensorRT: called as TensorRT calls it.

    python benchmarks/gpu_tensorrt_creator.py [--batch 1 8] [--json FILE]

Makes the plugin from a stand-in of NVIDIA's bindings, describes tensors to it, and hands ``enqueue`` addresses and a
stream of its own. Checks each result against float64, that work on the stream comes in its order, and that a captured
CUDA graph computes with what its inputs hold when it is replayed. Then times, as medians of CUDA-graph replays in
microseconds: the plugin, the gather and the GridSample form of the same node by the backend ``torch``, the operator
of this project, and torchvision's (of queued calls) if it is installed. ``pack`` is the part of the plugin's time
that packs the weights, ``host`` what one call of ``enqueue`` takes of a CPU. 3x3, padding 1, TF32 off. Needs PyTorch
with CUDA and cupy; the decomposed forms need onnx and onnx-graphsurgeon as well, and are left out, with the reason,
where they cannot run.

No number of this table is one of an engine: how TensorRT orders and copies around a plugin is not in it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_dcn import graph_microseconds
from gpu_timing import queued_microseconds
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.plugin_api import described, ranged, standin_api

from convkit.plugins import manager
from convkit_plugins.dcnv2.op import compute, deform_conv2d
from convkit_plugins.dcnv2.tensorrt import register_creator

SHAPES = ((64, 64, 128), (128, 64, 64), (256, 128, 32), (512, 256, 16))
"""Input channels, filters and side of the map: the first is the last layer of a network twice as large."""
MODES = (
    ("float32", "LINEAR"), ("float16", "LINEAR"), ("float16", "HWC8"), ("bfloat16", "LINEAR"), ("bfloat16", "HWC8"),
)  # fmt: skip
BOUNDS = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}
"""The largest relative L2 distances from float64 that count as right."""
FORMS = ("gather", "grid-sample")


@dataclass
class Row:
    """A line of the table; times in microseconds, ``None`` for what was not run, with its reason in ``notes``."""

    layer: str
    batch: int
    dtype: str
    layout: str
    error: float
    stream_in_order: bool
    graph_replays: bool
    times: dict[str, float | None] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether all checks passed."""
        return self.error < BOUNDS[self.dtype] and self.stream_in_order and self.graph_replays


class Layer:
    """Tensors of a layer on the GPU, and a plugin for them."""

    def __init__(self, api: Any, creator: Any, channels: int, filters: int, side: int, batch: int, mode: Any) -> None:
        self.dtype, self.layout = mode
        kind = getattr(torch, self.dtype)
        generator = torch.Generator("cuda").manual_seed(batch)

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, device="cuda", generator=generator) * scale).to(kind)

        last = self.layout == "HWC8"
        form = torch.channels_last if last else torch.contiguous_format
        self.x = normal(batch, channels, side, side).contiguous(memory_format=form)
        self.weight = normal(filters, channels, 3, 3, scale=1 / (3 * channels**0.5))
        self.offset, self.bias = normal(batch, 18, side, side, scale=2.0), normal(filters)
        self.mask = normal(batch, 9, side, side).sigmoid()
        self.out = torch.full((batch, filters, side, side), torch.nan, dtype=kind, device="cuda")
        self.out = self.out.contiguous(memory_format=form)
        fields = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
        collection = [api.PluginField(name, _int32(values), None) for name, values in fields.items()]
        self.plugin = creator.create_plugin("benchmark", collection, None).attach_to_context(None)
        self.tensors = (self.x, self.weight, self.offset, self.bias, self.mask)
        layouts = (self.layout, *["LINEAR"] * 4)
        self.given = [described(t.shape, self.dtype, at) for t, at in zip(self.tensors, layouts, strict=True)]
        self.made = [described(self.out.shape, self.dtype, self.layout)]
        needed = self.plugin.get_workspace_size([ranged(t.shape, self.dtype) for t in self.tensors], [])
        self.workspace = torch.empty(needed, dtype=torch.uint8, device="cuda")
        self.addresses = [tensor.data_ptr() for tensor in self.tensors]
        self.plugin.on_shape_change(self.given, self.made)

    def enqueue(self, stream: int) -> None:
        """Call the plugin as TensorRT does."""
        code = self.plugin.enqueue(
            self.given, self.made, self.addresses, [self.out.data_ptr()], self.workspace.data_ptr(), stream
        )
        assert code == 0

    def call(self) -> None:
        """Enqueue on PyTorch's current stream."""
        self.enqueue(torch.cuda.current_stream().cuda_stream)

    def exact(self) -> Tensor:
        """Return the result of the same numbers in float64."""
        x, weight, offset, bias, mask = (tensor.double() for tensor in self.tensors)
        return compute(x, weight, offset, bias, mask, (1, 1), (1, 1), (1, 1), 1)

    def distance(self) -> float:
        """Return the relative L2 distance of the output from the result in float64."""
        exact = self.exact()
        return float((self.out.double() - exact).norm() / exact.norm())

    def stream_in_order(self) -> bool:
        """Return whether the plugin's work comes after what its stream had before, and before what follows."""
        stream = torch.cuda.Stream()
        values, late = self.x.clone(), torch.empty_like(self.out)
        self.x.fill_(torch.nan)
        self.out.fill_(torch.nan)
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            self.x.copy_(values)
            self.enqueue(stream.cuda_stream)
            late.copy_(self.out)
        stream.synchronize()
        return self.distance() < BOUNDS[self.dtype] and torch.equal(late, self.out)

    def graph_replays(self) -> bool:
        """Return whether a captured graph computes with what its inputs hold at a replay, the weight among them."""
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            self.call()
        for tensor in (self.x, self.weight):
            tensor.neg_().mul_(0.5)
        self.out.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        return self.distance() < BOUNDS[self.dtype]

    def pack(self) -> None:
        """Launch the packing of the weights alone."""
        run = self.plugin.execution
        stream = torch.cuda.current_stream().cuda_stream
        run.pack(run.pack_config, self.addresses[1], self.workspace.data_ptr(), *run.pack_scalars, stream=stream)

    def host_microseconds(self, calls: int = 100, repeats: int = 9) -> float:
        """Return the median time that a call takes of the CPU; the GPU's queue is never full."""
        times = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(calls):
                self.call()
            times.append((time.perf_counter() - start) * 1e6 / calls)
        torch.cuda.synchronize()
        return statistics.median(times)


def _int32(values: list[int]) -> Any:
    import numpy as np

    return np.array(values, np.int32)


def one_node(tensors: tuple[Tensor, ...]) -> Any:
    """Return a graph of one DeformConv with constant weight and bias, of fixed shapes."""
    from onnx import helper, numpy_helper

    x, weight, offset, bias, mask = (tensor.contiguous().cpu().numpy() for tensor in tensors)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node(
        "DeformConv", ["x", "weight", "offset", "bias", "mask"], ["y"], "it", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
    )
    values = {"x": x, "offset": offset, "mask": mask}
    shape = (x.shape[0], weight.shape[0], *x.shape[2:])
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(name, kind, value.shape) for name, value in values.items()],
        [helper.make_tensor_value_info("y", kind, shape)],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def add_operators() -> None:
    """Let the backend ``torch`` run ONNX's operators, also where this project is not installed."""
    import convkit.backends.torch

    if not manager().gather("convkit_torch_operators"):
        manager().register(convkit.backends.torch, "torch", "convkit", convkit.__version__)


def decomposed(form: str, tensors: tuple[Tensor, ...], folder: Path) -> Callable[[], Tensor]:
    """Return a call of the decomposed form of the layer, run by the backend ``torch``."""
    import onnx

    from convkit.backends import Engine
    from convkit.backends.torch import Torch
    from convkit.graph import apply_rewrite
    from convkit_plugins.dcnv2.export import DecomposeGather, DecomposeGridSample

    rewrite = {"gather": DecomposeGather, "grid-sample": DecomposeGridSample}[form]
    model, record = apply_rewrite(one_node(tensors), rewrite())
    assert record.fired == 1, record
    file = folder / f"{form}.onnx"
    onnx.save(model, file)
    device = tensors[0].device.type
    session: Any = Torch().open(Engine("torch", file), device=device)
    feeds = {"x": tensors[0].contiguous(), "offset": tensors[2], "mask": tensors[4]}

    def run() -> Tensor:
        with session.settings():
            result: Tensor = session.program.run(feeds)["y"]
            return result

    return run


def measure(layer: Layer, name: str, batch: int, folder: Path) -> Row:
    """Return a line of the table; the checks come first, and change the tensors."""
    layer.call()
    torch.cuda.synchronize()
    error = layer.distance()
    row = Row(name, batch, layer.dtype, layer.layout, error, layer.stream_in_order(), layer.graph_replays())
    exact = layer.exact()
    row.times["plugin"] = graph_microseconds(layer.call)
    row.times["pack"] = graph_microseconds(layer.pack)
    row.times["host"] = layer.host_microseconds()
    x, weight, offset, bias, mask = layer.tensors
    others: dict[str, Callable[[], Callable[[], Tensor]]] = {
        "deform_conv2d": lambda: lambda: deform_conv2d(x, weight, offset, bias, mask, padding=1),
        "torchvision": lambda: torchvision_call(layer.tensors),
    }
    for form in FORMS:
        others[form] = lambda form=form: decomposed(form, layer.tensors, folder)  # type: ignore[misc]
    for other, make in others.items():
        if other in FORMS and layer.dtype == "bfloat16":
            row.times[other], row.notes[other] = None, "the rewrites take float32 and float16"
            continue
        try:
            call = make()
            distance = float((call().double() - exact).norm() / exact.norm())
            if not distance < 5 * BOUNDS[layer.dtype]:
                row.notes[other] = f"relative L2 distance {distance:.1e} from float64"
            # torchvision's operator cannot be captured: see gpu_timing.py
            row.times[other] = queued_microseconds(call, 20, 9) if other == "torchvision" else graph_microseconds(call)
        except Exception as reason:  # what cannot run here is said, and the rest measured
            row.times[other], row.notes[other] = None, f"{type(reason).__name__}: {str(reason).splitlines()[0]}"
            torch.cuda.synchronize()
    return row


def torchvision_call(tensors: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """Return a call of torchvision's operator, on dense planes, which it would otherwise copy."""
    from torchvision.ops import deform_conv2d as theirs

    x, weight, offset, bias, mask = (tensor.contiguous() for tensor in tensors)
    return lambda: theirs(x, offset, weight, bias, padding=1, mask=mask)


COLUMNS = ("plugin", "pack", "host", "deform_conv2d", *FORMS, "torchvision")


def versions() -> dict[str, str]:
    import cupy

    found = {"python": platform.python_version(), "torch": torch.__version__, "cupy": cupy.__version__}
    for name in ("torchvision", "onnx"):
        try:
            found[name] = __import__(name).__version__
        except ImportError:
            found[name] = "absent"
    major, minor = torch.cuda.get_device_capability()
    return {**found, "gpu": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}


def main() -> int:
    """Print the table and write the results; the exit code is 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", type=Path, help="write the results to this file, such as benchmarks/results/….json")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    api, failures = standin_api(), []  # type: ignore[var-annotated]
    creator = register_creator(api, failures)
    add_operators()
    found = versions()
    print(f"{datetime.date.today()}, {', '.join(f'{name} {value}' for name, value in found.items())}; microseconds\n")
    print(f"| layer | batch | type | layout | error | right | {' | '.join(COLUMNS)} |")
    print("|---" * (6 + len(COLUMNS)) + "|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for channels, filters, side in SHAPES:
            for batch in options.batch:
                for mode in MODES:
                    layer = Layer(api, creator, channels, filters, side, batch, mode)
                    row = measure(layer, f"{channels}->{filters} @ {side}", batch, Path(folder))
                    rows.append(row)
                    times = " | ".join("-" if (t := row.times.get(name)) is None else f"{t:.1f}" for name in COLUMNS)
                    print(
                        f"| {row.layer} | {batch} | {row.dtype} | {row.layout} | {row.error:.1e} | "
                        f"{'yes' if row.right else 'NO'} | {times} |",
                        flush=True,
                    )
    notes = dict.fromkeys(f"{name}: {note}" for row in rows for name, note in row.notes.items())
    for text in (*notes, *failures):
        print(f"  {text}")
    if options.json:
        document = {
            "date": str(datetime.date.today()), "command": f"python {' '.join(sys.argv)}", "versions": found,
            "unit": "microseconds, medians of CUDA-graph replays, of torchvision of queued calls; host: of a CPU",
            "failures": failures, "rows": [{**asdict(row), "right": row.right} for row in rows],
        }  # fmt: skip
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    wrong = [row for row in rows if not row.right]
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} right: error below {BOUNDS}, stream in order, graph replays.")
    return 1 if wrong or failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
