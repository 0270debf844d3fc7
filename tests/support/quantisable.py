"""Small float32 networks to quantise, with what engines fuse, and samples of their inputs."""

from __future__ import annotations

import numpy as np
import onnx
from support.graphs import make_model, node


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng([seed, *shape])
    return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def residual_network() -> onnx.ModelProto:
    """Return a network of any batch and size: two residual blocks, a Concat, an upsampling, two heads.

    The block ``b`` has a convolution in its shortcut. ``side`` is read by an int8 convolution and by a pooling that is
    none; ``heat.0`` leads to an output that a peak test decides on.
    """
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["s"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["s"], ["r"], name="stem.relu"),
        node("Conv", ["r", "wa1", "ba"], ["a1"], name="a.1", pads=[1, 1, 1, 1]),
        node("Relu", ["a1"], ["a1r"], name="a.relu"),
        node("Conv", ["a1r", "wa2"], ["a2"], name="a.2", pads=[1, 1, 1, 1]),
        node("Add", ["a2", "r"], ["as"], name="a.add"),
        node("Relu", ["as"], ["a"], name="a.out"),
        node("Conv", ["a", "wd"], ["d"], name="b.short", strides=[2, 2]),
        node("Conv", ["a", "wb1"], ["b1"], name="b.1", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["b1"], ["b1r"], name="b.relu"),
        node("Conv", ["b1r", "wb2"], ["b2"], name="b.2", pads=[1, 1, 1, 1]),
        node("Add", ["d", "b2"], ["bs"], name="b.add"),
        node("Relu", ["bs"], ["b"], name="b.out"),
        node("MaxPool", ["b"], ["p"], name="pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Concat", ["b", "p", "b1r"], ["c"], name="concat", axis=1),
        node("Conv", ["c", "wc"], ["m"], name="mix"),
        node("Relu", ["m"], ["mr"], name="mix.relu"),
        node("ConvTranspose", ["mr", "wu"], ["u"], name="up", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["u"], ["ur"], name="up.relu"),
        node("Conv", ["ur", "wh", "bh"], ["h"], name="heat.0", pads=[1, 1, 1, 1]),
        node("Conv", ["ur", "wz1"], ["z1"], name="size.0", pads=[1, 1, 1, 1]),
        node("Relu", ["z1"], ["z1r"], name="size.relu"),
        node("Conv", ["z1r", "wz2"], ["size"], name="size.2"),
        node("MaxPool", ["h"], ["top"], name="highest", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Equal", ["h", "top"], ["peak"], name="equal"),
        node("Where", ["peak", "h", "low"], ["heat"], name="where"),
    ]
    constants = {
        "w0": weights(8, 3, 3, 3), "b0": weights(8), "wa1": weights(8, 8, 3, 3), "ba": weights(8),
        "wa2": weights(8, 8, 3, 3, seed=1), "wd": weights(16, 8, 1, 1), "wb1": weights(16, 8, 3, 3),
        "wb2": weights(16, 16, 3, 3), "wc": weights(16, 48, 1, 1), "wu": weights(16, 8, 4, 4),
        "wh": weights(2, 8, 3, 3), "bh": weights(2),
        "wz1": weights(8, 8, 3, 3, seed=2), "wz2": weights(2, 8, 1, 1), "low": np.float32(-1e4),
    }  # fmt: skip
    constants["wa1"][3] = 0  # a channel that is dead
    shape = ["n", 2, "h", "v"]
    return make_model(nodes, {"x": ["n", 3, "h", "v"]}, {"heat": shape, "size": shape}, constants)


def chain() -> onnx.ModelProto:
    """Return four convolutions in a row, with activations between them."""
    nodes = []
    for place in range(4):
        last = "y" if place == 3 else f"a{place}"
        source = "x" if place == 0 else f"r{place - 1}"
        nodes.append(node("Conv", [source, f"w{place}", f"b{place}"], [last], name=f"conv{place}", pads=[1, 1, 1, 1]))
        if place < 3:
            nodes.append(node("LeakyRelu", [last], [f"r{place}"], name=f"relu{place}"))
    constants = {f"w{place}": weights(6, 3 if place == 0 else 6, 3, 3, seed=place) for place in range(4)}
    constants |= {f"b{place}": weights(6, seed=place) for place in range(4)}
    return make_model(nodes, {"x": ["n", 3, "h", "v"]}, {"y": ["n", 6, "h", "v"]}, constants)


def products() -> onnx.ModelProto:
    """Return a perceptron: Gemm in both layouts of its weights, and MatMul."""
    nodes = [
        node("Gemm", ["x", "w0"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="relu"),
        node("Gemm", ["b", "w1", "b1"], ["c"], name="turned", transB=1),
        node("Gemm", ["c", "w2"], ["d"], name="straight"),
        node("MatMul", ["d", "w3"], ["e"], name="matmul"),
        node("MatMul", ["e", "w4"], ["y"], name="last"),
    ]
    constants = {
        "w0": weights(16, 16), "w1": weights(24, 16), "b1": weights(24), "w2": weights(24, 16),
        "w3": weights(16, 16, seed=1), "w4": weights(16, 4),
    }  # fmt: skip
    return make_model(nodes, {"x": ["n", 16]}, {"y": ["n", 4]}, constants)


def feeds(count: int, *shape: int) -> list[dict[str, np.ndarray]]:
    """Return samples of the input ``x``."""
    generator = np.random.default_rng(5)
    return [{"x": generator.standard_normal(shape).astype(np.float32)} for _ in range(count)]
