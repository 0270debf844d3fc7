"""Faults in the constants of a graph: weights, biases, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx

from convkit.self_test._graph import Graph, Spot

__all__ = ["WEIGHT_FAULTS"]

LARGEST = 0.5
"""A single number is spoilt among the larger half of its layer: a tiny one changes nothing that anybody would see."""

Finder = Callable[[Graph, np.random.Generator], Iterator[Spot]]


def _weights(graph: Graph, change: Callable[[np.ndarray], np.ndarray | None], *types: str) -> Iterator[Spot]:
    """Yield a spot for each layer whose weight ``change`` turns into another one."""

    def planted(copy: Graph, node: onnx.NodeProto) -> None:
        value = change(copy.constant(node.input[1]))
        assert value is not None
        copy.replace(node.input[1], value)

    for node in graph.weighted(*types):
        value = graph.constant(node.input[1])
        spoilt = change(value)
        if spoilt is not None and not np.array_equal(spoilt.astype(value.dtype), value):
            yield graph.at(node, planted)


def _output_axis(node: onnx.NodeProto, graph: Graph) -> int:
    """Return the axis of a weight along which its output channels lie."""
    if node.op_type in ("Conv", "DeformConv"):
        return 0
    if node.op_type == "Gemm":
        return 0 if graph.attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else graph.constant(node.input[1]).ndim - 1


def _per_channel(
    graph: Graph, node: onnx.NodeProto, change: Callable[[np.ndarray, int], np.ndarray], *, bias: bool = True
) -> None:
    """Change the weight along its output channels, and the bias as its only axis."""
    name, axis = node.input[1], _output_axis(node, graph)
    graph.replace(name, change(graph.constant(name), axis))
    if bias and graph.bias(node):
        graph.replace(graph.bias(node), change(graph.constant(graph.bias(node)), -1))


def _exchanged(value: np.ndarray, axis: int, one: int, other: int) -> np.ndarray:
    order = np.arange(value.shape[axis])
    order[[one, other]] = order[[other, one]]
    return np.take(value, order, axis)


def input_channels(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """The first layer reads its channels backwards."""
    del rng

    def backwards(copy: Graph, node: onnx.NodeProto) -> None:
        copy.replace(node.input[1], copy.constant(node.input[1])[:, ::-1])

    for node in graph.weighted("Conv"):
        if node.input[0] in graph.inputs and graph.constant(node.input[1]).shape[1] > 1:
            yield graph.at(node, backwards)


def output_channels(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """Two channels of a layer in each other's place."""
    for node in graph.weighted():
        count = graph.constant(node.input[1]).shape[_output_axis(node, graph)]
        if count > 1:
            one, other = (int(index) for index in rng.choice(count, 2, replace=False))
            yield graph.at(
                node,
                lambda copy, node, one=one, other=other: _per_channel(  # type: ignore[misc]
                    copy, node, lambda value, axis: _exchanged(value, axis, one, other)
                ),
                f"channels {one} and {other}",
            )


def weights_of_two_channels(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """The weights of two channels exchanged, their biases left where they are."""
    for node in graph.weighted():
        if not graph.bias(node):
            continue
        count = graph.constant(node.input[1]).shape[_output_axis(node, graph)]
        if count > 1:
            one, other = (int(index) for index in rng.choice(count, 2, replace=False))
            yield graph.at(
                node,
                lambda copy, node, one=one, other=other: _per_channel(  # type: ignore[misc]
                    copy, node, lambda value, axis: _exchanged(value, axis, one, other), bias=False
                ),
                f"channels {one} and {other}",
            )


def layers_exchanged(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """Two layers of the same shape have each other's weights."""
    del rng
    seen: dict[tuple[str, tuple[int, ...]], str] = {}
    for node in graph.weighted():
        name = node.input[1]
        key = (node.op_type, graph.constant(name).shape)
        if key in seen and seen[key] != name:
            other = seen[key]

            def exchange(copy: Graph, node: onnx.NodeProto, name: str = name, other: str = other) -> None:
                mine, theirs = copy.constant(name), copy.constant(other)
                copy.replace(name, theirs)
                copy.replace(other, mine)

            yield graph.at(node, exchange, f"with {other}")
        seen[key] = name


def stale(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A layer as it was some steps of training before: every weight off by a hundredth of the layer's spread."""
    seed = int(rng.integers(2**31))

    def earlier(value: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(seed).standard_normal(value.shape)
        return np.asarray(value.astype(np.float64) + 0.01 * value.astype(np.float64).std() * noise)

    yield from _weights(graph, earlier)


def exponent_bit(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """The lowest bit of the exponent of one weight is flipped: it is twice or half as large."""
    seed = int(rng.integers(2**31))

    def flipped(value: np.ndarray) -> np.ndarray | None:
        width = {"float32": (np.uint32, 23), "float16": (np.uint16, 10), "bfloat16": (np.uint16, 7)}
        if str(value.dtype) not in width:
            return None
        kind, bit = width[str(value.dtype)]
        magnitudes = np.abs(value.astype(np.float64)).reshape(-1)
        large = np.flatnonzero(magnitudes >= np.quantile(magnitudes, LARGEST))
        spoilt = np.ascontiguousarray(value).copy()
        bits = spoilt.reshape(-1).view(kind)
        bits[np.random.default_rng(seed).choice(large)] ^= kind(1 << bit)
        return spoilt if np.isfinite(spoilt.astype(np.float64)).all() else None

    yield from _weights(graph, flipped)


def bias_dropped(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A layer without its bias."""
    del rng

    def dropped(copy: Graph, node: onnx.NodeProto) -> None:
        name = copy.bias(node)
        copy.replace(name, np.zeros_like(copy.constant(name)))

    for node in graph.weighted():
        if graph.bias(node) and graph.constant(graph.bias(node)).any():
            yield graph.at(node, dropped)


def bias_off(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """One bias off by a hundredth of the layer's largest."""
    del rng

    def off(copy: Graph, node: onnx.NodeProto) -> None:
        value = copy.constant(copy.bias(node))
        value.flat[0] += np.abs(value).max() * value.dtype.type(0.01)
        copy.replace(copy.bias(node), value)

    for node in graph.weighted():
        if graph.bias(node) and graph.constant(graph.bias(node)).any():
            yield graph.at(node, off)


def channel_zeroed(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A channel that is never written, weight and bias."""
    for node in graph.weighted():
        count = graph.constant(node.input[1]).shape[_output_axis(node, graph)]
        channel = int(rng.integers(count))

        def zeroed(value: np.ndarray, axis: int, channel: int = channel) -> np.ndarray:
            spoilt = np.moveaxis(value.copy(), axis, 0)
            spoilt[channel] = 0
            return np.moveaxis(spoilt, 0, axis)

        yield graph.at(node, lambda copy, node, zeroed=zeroed: _per_channel(copy, node, zeroed), f"channel {channel}")  # type: ignore[misc]


def scaled(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A layer one hundredth too large, as by a scale that was computed from other data."""
    del rng
    yield from _weights(graph, lambda value: np.asarray(value.astype(np.float64) * 1.01))


def half_precision(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A layer rounded to float16, though float32 was asked for."""
    del rng
    yield from _weights(graph, lambda value: value.astype(np.float16) if value.dtype == np.float32 else None)


def kernel_transposed(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """Rows for columns in the kernels of a convolution, or in a square matrix."""
    del rng
    yield from _weights(
        graph,
        lambda value: (
            value.swapaxes(-1, -2) if value.shape[-1] == value.shape[-2] > 1 and value.ndim in (2, 4) else None
        ),
    )


def kernel_flipped(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A convolution as in mathematics instead of the correlation that networks mean, or the other way round."""
    del rng
    yield from _weights(
        graph,
        lambda value: value[..., ::-1, ::-1] if value.ndim == 4 and value.shape[-1] > 1 else None,
        "Conv",
        "ConvTranspose",
        "DeformConv",
    )


def table_shifted(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A table of embeddings read one row off."""
    del rng

    def shifted(copy: Graph, node: onnx.NodeProto) -> None:
        copy.replace(node.input[0], np.roll(copy.constant(node.input[0]), 1, 0))

    for node in graph.of("Gather"):
        if graph.floating(node.input[0]) and graph.constant(node.input[0]).shape[0] > 1:
            yield graph.at(node, shifted)


WEIGHT_FAULTS: dict[str, tuple[str, Finder]] = {
    "input channels reversed": ("the first layer was trained on RGB and gets BGR", input_channels),
    "channels swapped": ("two channels of a layer in each other's place", output_channels),
    "weights of two channels exchanged": ("weights moved, biases not", weights_of_two_channels),
    "two layers exchanged": ("weights were loaded by shape, not by name", layers_exchanged),
    "stale weights": ("a layer of an earlier checkpoint", stale),
    "one exponent bit flipped": ("memory or a file was damaged", exponent_bit),
    "bias dropped": ("a fusion lost the bias", bias_dropped),
    "one bias off by 1 %": ("a constant was computed with another epsilon", bias_off),
    "one channel zeroed": ("a kernel does not write its last channels", channel_zeroed),
    "a layer scaled by 1.01": ("a scale was folded twice or from other data", scaled),
    "a layer in half precision": ("the engine rounds without being asked to", half_precision),
    "kernel transposed": ("rows for columns", kernel_transposed),
    "kernel flipped": ("a convolution for a correlation", kernel_flipped),
    "table read one row off": ("ids counted from 1", table_shifted),
}
"""Kinds of fault with their cause and what finds their places."""
