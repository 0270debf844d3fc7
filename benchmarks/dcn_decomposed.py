"""Compare DeformConv with its two forms in standard operators, on ONNX Runtime's CPU kernels.

    python benchmarks/dcn_decomposed.py [--threads 2] [--repeats 10] [--json FILE]

float32, batch 1, kernel 3 x 3, offsets of 3 px standard deviation; the last three layers are those of
CenterNet's resdcn_18 at 512 x 512. Printed for each form: nodes, layers of
the network that TensorRT-RTX's parser makes of it (where ``tensorrt_rtx_bindings`` is installed), file
size, the best time, and the largest difference from DeformConv over its largest value. ``dynamic``
is the same graph with open batch, height and width.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from convkit._onnxruntime import onnxruntime
from convkit.graph import NodeRewrite, apply_rewrite
from convkit_plugins.dcnv2.export import DecomposeGather, DecomposeGridSample

LAYERS = ((64, 64, 128), (512, 256, 16), (256, 128, 32), (128, 64, 64))
"""Input channels, output channels, height and width."""

FORMS: dict[str, type[NodeRewrite] | None] = {
    "DeformConv": None,
    "gather": DecomposeGather,
    "grid sample": DecomposeGridSample,
}


@dataclass(frozen=True)
class Row:
    """What is printed of one form of one layer."""

    layer: str
    sizes: str
    form: str
    nodes: int
    rtx_layers: int | None
    kilobytes: float
    milliseconds: float
    error: float


def make_layer(inputs: int, outputs: int, size: int, dynamic: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the graph of one layer and what it is fed."""
    random = np.random.default_rng(0)
    axes: list[Any] = ["batch", "height", "width"] if dynamic else [1, size, size]
    shapes = {"x": inputs, "offset": 18, "mask": 9}
    constants = {
        "weight": random.standard_normal((outputs, inputs, 3, 3)) / (9 * inputs) ** 0.5,
        "bias": random.standard_normal(outputs),
    }
    graph = helper.make_graph(
        [
            helper.make_node(
                "DeformConv", ["x", "weight", "offset", "bias", "mask"], ["y"], "dcn", kernel_shape=[3, 3], pads=[1] * 4
            )
        ],
        "layer",
        [helper.make_tensor_value_info(name, 1, [axes[0], channels, *axes[1:]]) for name, channels in shapes.items()],
        [helper.make_tensor_value_info("y", 1, [axes[0], outputs, *axes[1:]])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    feeds = {
        "x": random.standard_normal((1, inputs, size, size)),
        "offset": random.standard_normal((1, 18, size, size)) * 3,
        "mask": random.random((1, 9, size, size)),
    }
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model, {name: value.astype(np.float32) for name, value in feeds.items()}


def count_rtx_layers(model: onnx.ModelProto) -> int | None:
    """Return the layers that the parser of TensorRT-RTX makes, None where it is missing or refuses the graph."""
    try:
        trt = importlib.import_module("tensorrt_rtx_bindings")
    except ImportError:
        return None
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    return network.num_layers if trt.OnnxParser(network, logger).parse(model.SerializeToString()) else None


def measure(layer: tuple[int, int, int], dynamic: bool, threads: int, repeats: int) -> list[Row]:
    """Return one row a form; the forms take turns, so that a busy moment hits each of them."""
    model, feeds = make_layer(*layer, dynamic)
    models = {name: apply_rewrite(model, form())[0] if form else model for name, form in FORMS.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    sessions = {
        name: onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for name, graph in models.items()
    }
    results = {name: session.run(None, feeds)[0] for name, session in sessions.items()}
    best = dict.fromkeys(sessions, float("inf"))
    for _ in range(repeats):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feeds)
            best[name] = min(best[name], 1000 * (time.perf_counter() - start))
    expected = results["DeformConv"]
    return [
        Row(
            f"{layer[0]}->{layer[1]} {layer[2]}x{layer[2]}",
            "dynamic" if dynamic else "fixed",
            name,
            len(graph.graph.node),
            count_rtx_layers(graph),
            graph.ByteSize() / 1000,
            best[name],
            float(np.abs(results[name] - expected).max() / np.abs(expected).max()),
        )
        for name, graph in models.items()
    ]


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the numbers to this file as well")
    options = parser.parse_args()
    rows = [
        row
        for layer in LAYERS
        for dynamic in (False, True)
        for row in measure(layer, dynamic, options.threads, options.repeats)
    ]
    print(f"ONNX Runtime {onnxruntime.__version__}, {options.threads} threads")
    print(f"{'layer':18}{'sizes':9}{'form':13}{'nodes':>6}{'RTX layers':>12}{'kB':>9}{'ms':>9}{'error':>10}")
    for row in rows:
        layers = "-" if row.rtx_layers is None else row.rtx_layers
        print(
            f"{row.layer:18}{row.sizes:9}{row.form:13}{row.nodes:6}{layers:>12}"
            f"{row.kilobytes:9.1f}{row.milliseconds:9.1f}{row.error:10.1e}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
