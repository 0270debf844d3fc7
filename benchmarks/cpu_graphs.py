"""What else was tried to make a network faster in ONNX Runtime on the CPU: other graphs and other settings.

Takes a float32 artifact with inputs of a fixed size. Every variant runs in turn with the artifact's graph under the
settings of the backend (``base``), on one thread if not told otherwise, where CPU time says what a variant costs on a
machine that others use too. ``error`` is the relative distance (L2) of the outputs from those of ``base``, the largest.
With --winograd single layers of 3x3 are compared with Winograd's F(2x2, 3x3) written in standard operators.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convkit._onnxruntime import onnxruntime
from convkit.backends.onnxruntime import session_options
from convkit.backends.torch._siblings import joined_siblings
from convkit.graph import apply_rewrite
from convkit_plugins.dcnv2.export import DecomposeGather, DecomposeGridSample

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED")
LAYERS = ((64, 128), (128, 64), (256, 32), (512, 16))
"""Channels and size of the layers of a residual network at 512x512."""
ENTRIES = {
    "threads that spin": {"session.intra_op.allow_spinning": "1"},
    "threads that spin while a run lasts": {
        "session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "1",
    },
    "smaller blocks towards the end (4)": {"session.dynamic_block_base": "4"},
    "denormals are zero": {"session.set_denormal_as_zero": "1"},
}  # fmt: skip


def transposed_as_four(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with each ConvTranspose of 4x4, stride 2, padding 1 as four Conv of 2x2 and a DepthToSpace.

    An output pixel of odd or even row and column reads two by two inputs, so each of the four kinds is a convolution. A
    Relu behind goes with them, where ONNX Runtime makes it part of the convolution.
    """
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    relus = {node.input[0]: node for node in model.graph.node if node.op_type == "Relu" and uses[node.input[0]] == 1}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    gone: set[str] = set()
    for node in model.graph.node:
        if node.output[0] in gone:
            continue
        settings = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        fits = node.op_type == "ConvTranspose" and settings.get("group", 1) == 1
        weight = weights.get(node.input[1]) if fits else None
        if (
            weight is None
            or weight.shape[2:] != (4, 4)
            or (settings["strides"], settings["pads"]) != ([2] * 2, [1] * 4)
        ):
            result.graph.node.append(node)
            continue
        relu, parts = relus.get(node.output[0]), []
        for row in (0, 1):
            for column in (0, 1):
                name = f"{node.name}.{row}{column}"
                part = weight[:, :, [3 - row, 1 - row]][:, :, :, [3 - column, 1 - column]].transpose(1, 0, 2, 3).copy()
                result.graph.initializer.append(numpy_helper.from_array(part, f"{name}.weight"))
                result.graph.node.append(
                    helper.make_node(
                        "Conv", [node.input[0], f"{name}.weight", *node.input[2:]], [name], name=name,
                        kernel_shape=[2, 2], pads=[1 - row, 1 - column, row, column],
                    )
                )  # fmt: skip
                parts.append(name)
                if relu is not None:
                    result.graph.node.append(helper.make_node("Relu", [name], [f"{name}.relu"], name=f"{name}.relu"))
                    parts[-1] = f"{name}.relu"
        final = node.output[0] if relu is None else relu.output[0]
        gone |= set() if relu is None else {final}
        whole = f"{node.name}.all"
        result.graph.node.append(helper.make_node("Concat", parts, [whole], name=whole, axis=1))
        result.graph.node.append(helper.make_node("DepthToSpace", [whole], [final], name=f"{whole}.depth", blocksize=2))
    return result


def small(nodes: Sequence[onnx.NodeProto], channels: int, size: int, arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return a graph of nodes from ``x`` to ``y``, both [1, channels, size, size]."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size]) for name in "xy")
    constants = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in arrays.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def layer(channels: int, size: int) -> tuple[bytes, bytes]:
    """Return a convolution of 3x3 with ReLU, plain and by the cheapest form of F(2x2, 3x3) that was found.

    Each of the 16 sums of four pixels of a tile is a convolution channel by channel, all products of sums and weights
    are one grouped convolution of 1x1, so that both have ONNX Runtime's blocked layout. The results of a tile are a
    MatMul.
    """
    weight = np.random.default_rng(0).normal(size=(channels, channels, 3, 3)) / np.sqrt(9 * channels)
    plain = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"]),
    ]  # fmt: skip
    at = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float64)
    g = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2
    tiles = size // 2
    arrays: dict[str, np.ndarray] = {
        "weight": np.einsum("ki,ocij,lj->kloc", g, weight, g).reshape(16 * channels, channels, 1, 1),
        "results": np.einsum("pk,ql->pqkl", at, at).reshape(4, 16),
    }
    # Signs of the two pixels that are added along an axis, their distance, and the padding before and behind.
    axis = (((1, -1), 2, 1, 0), ((1, 1), 1, 0, 0), ((-1, 1), 1, 0, 0), ((1, -1), 2, 0, 1))
    winograd, sums = [], []
    for row, (down, vertical, top, bottom) in enumerate(axis):
        for column, (across, horizontal, left, right) in enumerate(axis):
            name = f"sum{row}{column}"
            arrays[f"{name}.w"] = np.tile(np.outer(down, across).reshape(1, 1, 2, 2), (channels, 1, 1, 1))
            winograd.append(
                helper.make_node(
                    "Conv", ["x", f"{name}.w"], [name], name=name, group=channels, kernel_shape=[2, 2], strides=[2, 2],
                    dilations=[vertical, horizontal], pads=[top, left, bottom, right],
                )
            )  # fmt: skip
            sums.append(name)
    winograd += [
        helper.make_node("Concat", sums, ["v"], axis=1),
        helper.make_node("Conv", ["v", "weight"], ["m"], group=16, kernel_shape=[1, 1]),
        helper.make_node("Reshape", ["m", "s1"], ["m0"]),
        helper.make_node("MatMul", ["results", "m0"], ["m1"]),
        helper.make_node("Reshape", ["m1", "s2"], ["m2"]),
        helper.make_node("DepthToSpace", ["m2"], ["c"], blocksize=2),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    floats = {name: value.astype(np.float32) for name, value in arrays.items()}
    longs = {"s1": np.array([0, 16, channels * tiles**2]), "s2": np.array([0, 4 * channels, tiles, tiles])}
    return (
        small(plain, channels, size, {"w": weight.astype(np.float32)}), small(winograd, channels, size, floats | longs),
    )  # fmt: skip


def opened(model: onnx.ModelProto | bytes, threads: int, level: str = "", **entries: str) -> Any:
    """Return a session with the settings of the backend but for these."""
    options = session_options()
    options.intra_op_num_threads = threads
    if level:
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def compare(sessions: Mapping[str, Any], runs: int) -> None:
    """Print a row for each session; they run in turns on one input of normal noise, the first is the measure."""
    fed = next(iter(sessions.values())).get_inputs()[0]
    shape = [extent if isinstance(extent, int) else 1 for extent in fed.shape]
    feed = {fed.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    outputs: dict[str, list[np.ndarray]] = {}
    for turn in range(runs + 2):
        for name, session in sessions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            outputs[name] = session.run(None, feed)
            if turn >= 2:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    right = outputs[next(iter(sessions))]
    base = 0.0
    for name, pairs in times.items():
        wall = 1e3 * min(pair[0] for pair in pairs)
        cpu = 1e3 * statistics.median(pair[1] for pair in pairs)
        base = base or cpu
        pairs_of = zip(outputs[name], right, strict=True)
        error = max(float(np.linalg.norm(one - two) / np.linalg.norm(two)) for one, two in pairs_of)
        print(f"| {name} | {wall:.1f} ms | {cpu:.1f} ms | {cpu / base:.2f} | {error:.0e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--winograd", action="store_true")
    options = parser.parse_args()
    model, threads = onnx.load(str(options.artifact / "model.onnx")), options.threads
    graphs = {
        "layers of one input as one": joined_siblings(model),
        "ConvTranspose as four Conv": transposed_as_four(model),
        "DeformConv by GridSample": apply_rewrite(model, DecomposeGridSample())[0],
        "DeformConv by GatherND": apply_rewrite(model, DecomposeGather())[0],
    }
    sessions = {"base": opened(model, threads)}
    sessions |= {name: opened(graph, threads) for name, graph in graphs.items()}
    sessions |= {f"level {level}": opened(model, threads, level) for level in LEVELS}
    if threads > 1:
        sessions |= {name: opened(model, threads, **entries) for name, entries in ENTRIES.items()}
    print("| what | wall, best | CPU, median | of base | error |\n|---|---|---|---|---|")
    compare(sessions, options.runs)
    for channels, size in LAYERS if options.winograd else ():
        what, (plain, winograd) = f"{channels} channels at {size}", layer(channels, size)
        compare({what: opened(plain, threads), f"{what}, Winograd": opened(winograd, threads)}, options.runs)


if __name__ == "__main__":
    main()
