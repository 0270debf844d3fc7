"""Faults in the nodes of a graph: activations, padding, resampling, branches, pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import helper

from convkit.self_test._graph import Graph, Spot

__all__ = ["NODE_FAULTS"]

Finder = Callable[[Graph, np.random.Generator], Iterator[Spot]]
NORMS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")


def padding_off_by_one(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """The same amount of padding, one pixel further down and right."""
    del rng

    def moved(copy: Graph, node: onnx.NodeProto) -> None:
        pads = copy.ints(node, "pads", ())
        half = len(pads) // 2
        copy.set_attribute(node, "pads", [*(pad - 1 for pad in pads[:half]), *(pad + 1 for pad in pads[half:])])

    for node in graph.of("Conv", "DeformConv", "MaxPool", "AveragePool"):
        pads = graph.ints(node, "pads", ())
        half = len(pads) // 2
        kernel = graph.ints(node, "kernel_shape", [])
        # A pooling window must not lie in the padding as a whole.
        room = not node.op_type.endswith("Pool") or all(p + 1 < k for p, k in zip(pads[half:], kernel, strict=False))
        if half and min(pads[:half]) > 0 and room:
            yield graph.at(node, moved)


def upsampling_shifted(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A transposed convolution whose result lies one pixel further up and left: half a pixel of its input or less."""
    del rng

    def moved(copy: Graph, node: onnx.NodeProto) -> None:
        pads = copy.ints(node, "pads", ())
        half = len(pads) // 2
        copy.set_attribute(node, "pads", [*(pad + 1 for pad in pads[:half]), *(pad - 1 for pad in pads[half:])])

    for node in graph.of("ConvTranspose"):
        pads = graph.ints(node, "pads", ())
        if pads and min(pads[len(pads) // 2 :]) > 0:
            yield graph.at(node, moved)


def resize_shifted(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A Resize with another convention of where pixels lie."""
    del rng

    def other(copy: Graph, node: onnx.NodeProto) -> None:
        now = copy.attribute(node, "coordinate_transformation_mode", b"half_pixel")
        copy.set_attribute(
            node, "coordinate_transformation_mode", "half_pixel" if now == b"asymmetric" else "asymmetric"
        )

    for node in graph.of("Resize"):
        yield graph.at(node, other)


def resize_mode(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """Nearest for linear, or linear for nearest."""
    del rng

    def other(copy: Graph, node: onnx.NodeProto) -> None:
        now = copy.attribute(node, "mode", b"nearest")
        copy.set_attribute(node, "mode", "linear" if now == b"nearest" else "nearest")

    for node in graph.of("Resize"):
        yield graph.at(node, other)


def dilated(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A 3 x 3 convolution with holes of one pixel; the padding keeps its shape."""
    del rng

    def holes(copy: Graph, node: onnx.NodeProto) -> None:
        copy.set_attribute(node, "dilations", [2, 2])
        copy.set_attribute(node, "pads", [pad + 1 for pad in copy.ints(node, "pads", [0, 0, 0, 0])])

    for node in graph.weighted("Conv"):
        kernel, dilations = graph.constant(node.input[1]).shape[2:], graph.ints(node, "dilations", [1, 1])
        if kernel == (3, 3) and dilations == [1, 1] and graph.attribute(node, "auto_pad", b"NOTSET") == b"NOTSET":
            yield graph.at(node, holes)


def strided_phase(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A strided layer padded as TensorFlow's SAME does it: more at the end than at the beginning."""
    del rng

    def same(copy: Graph, node: onnx.NodeProto) -> None:
        pads = copy.ints(node, "pads", ())
        half = len(pads) // 2
        copy.set_attribute(node, "pads", [*(pad - 1 for pad in pads[:half]), *pads[half:]])

    for node in graph.of("Conv"):
        pads, strides = graph.ints(node, "pads", ()), graph.ints(node, "strides", [1])
        if pads and min(pads[: len(pads) // 2]) > 0 and min(strides) > 1:
            yield graph.at(node, same)


def relu_dropped(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """An activation lost in a fusion."""
    del rng
    for node in graph.of("Relu", "LeakyRelu", "Clip", "HardSwish", "Gelu", "Elu", "PRelu", "Tanh"):
        yield graph.at(node, lambda copy, node: copy.bypass(node))


def relu_leaky(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A LeakyReLU for a ReLU, or the other way round."""
    del rng

    def other(copy: Graph, node: onnx.NodeProto) -> None:
        leaky = node.op_type == "LeakyRelu"
        name = node.name
        made = helper.make_node("Relu" if leaky else "LeakyRelu", list(node.input), list(node.output), name=name)
        node.CopyFrom(made)
        if not leaky:
            copy.set_attribute(node, "alpha", 0.01)

    for node in graph.of("Relu", "LeakyRelu"):
        yield graph.at(node, other)


def sigmoid_dropped(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """Logits where probabilities are expected."""
    del rng
    for node in graph.of("Sigmoid", "Softmax", "HardSigmoid"):
        yield graph.at(node, lambda copy, node: copy.bypass(node))


def sigmoid_doubled(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A sigmoid upon a sigmoid, or upon an output that is decoded with another one."""
    del rng
    for node in graph.of("Sigmoid"):
        yield graph.at(node, lambda copy, node: copy.after(node.output[0], ("Sigmoid", ())))
    for node in graph.of("Softmax"):
        yield graph.at(node, lambda copy, node: copy.after(node.output[0], ("Softmax", ())))
    for node in graph.weighted():
        if node.output[0] in graph.outputs:
            yield graph.at(node, lambda copy, node: copy.after(node.output[0], ("Sigmoid", ())))


def epsilon(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A norm with TensorFlow's epsilon: 1e-3 for 1e-5."""
    del rng
    for node in graph.of(*NORMS):
        yield graph.at(node, lambda copy, node: copy.set_attribute(node, "epsilon", 1e-3))


def skip_lost(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """One branch of a sum is lost."""
    del rng
    for node in graph.of("Add"):
        if not any(graph.is_constant(name) for name in node.input) and node.input[0] != node.input[1]:
            yield graph.at(node, lambda copy, node: copy.bypass(node))


def concat_order(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """The parts of a concatenation in another order."""
    del rng

    def backwards(copy: Graph, node: onnx.NodeProto) -> None:
        node.input[:] = list(node.input)[::-1]

    for node in graph.of("Concat"):
        computed = [name for name in node.input if not graph.is_constant(name)]
        if len(set(computed)) == len(node.input) > 1:
            yield graph.at(node, backwards)


def pooling(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """The mean for the maximum, or the maximum for the mean."""
    del rng
    others = {
        "MaxPool": "AveragePool",
        "AveragePool": "MaxPool",
        "GlobalAveragePool": "GlobalMaxPool",
        "ReduceMean": "ReduceMax",
        "ReduceMax": "ReduceMean",
    }

    def other(copy: Graph, node: onnx.NodeProto) -> None:
        node.op_type = others[node.op_type]
        for attribute in list(node.attribute):
            if attribute.name in ("count_include_pad", "storage_order"):
                node.attribute.remove(attribute)

    for node in graph.of(*others):
        if len(node.output) == 1:
            yield graph.at(node, other)


def _predictors(graph: Graph) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Yield the layers whose first channels are the offsets of a deformable convolution, with their number."""
    for node in graph.of("DeformConv"):
        if not graph.is_constant(node.input[1]):
            continue
        shape = graph.constant(node.input[1]).shape
        groups = graph.attribute(node, "offset_group", 1)
        count = 2 * shape[2] * shape[3] * (groups if isinstance(groups, int) else 1)
        source = graph.producer(node.input[2])
        while source is not None and source.op_type in ("Slice", "Split", "Identity", "Cast"):
            source = graph.producer(source.input[0])
        if source is not None and source.op_type == "Conv" and graph.floating(source.input[1]):
            yield source, count


def _offsets(graph: Graph, order: Callable[[int], np.ndarray]) -> Iterator[Spot]:
    """Yield a spot for each layer of offsets, whose channels are put into another order."""
    for node, count in _predictors(graph):

        def planted(copy: Graph, node: onnx.NodeProto, count: int = count) -> None:
            for name in filter(None, (node.input[1], copy.bias(node))):
                value = copy.constant(name)
                value[:count] = value[:count][order(count)]
                copy.replace(name, value)

        yield graph.at(node, planted)


def offsets_swapped(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """x before y in the offsets of a deformable convolution."""
    del rng
    yield from _offsets(graph, lambda count: np.arange(count).reshape(-1, 2)[:, ::-1].reshape(-1))


def offsets_in_planes(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """All y offsets first and all x offsets after, instead of in turn."""
    del rng
    yield from _offsets(graph, lambda count: np.arange(count).reshape(-1, 2).T.reshape(-1))


def offsets_ignored(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A deformable convolution that has become a plain one."""
    del rng

    def zeroed(copy: Graph, node: onnx.NodeProto) -> None:
        scale = copy.add_constant(f"{node.output[0]}/planted", np.zeros((), _dtype(copy, node)))
        copy.nodes.insert(
            list(copy.nodes).index(node),
            helper.make_node("Mul", [node.input[2], scale], [f"{node.output[0]}/offsets"], name=f"{scale}/Mul"),
        )
        node.input[2] = f"{node.output[0]}/offsets"

    for node in graph.of("DeformConv"):
        if graph.floating(node.input[1]):
            yield graph.at(node, zeroed)


def mask_ignored(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """A modulated deformable convolution without its mask: DCNv1 for DCNv2."""
    del rng

    def without(copy: Graph, node: onnx.NodeProto) -> None:
        del node.input[4:]
        if len(node.input) == 4 and not node.input[3]:
            del node.input[3:]

    for node in graph.of("DeformConv"):
        if len(node.input) > 4 and node.input[4]:
            yield graph.at(node, without)


def _dtype(graph: Graph, node: onnx.NodeProto) -> np.dtype[np.generic]:
    return graph.constant(node.input[1]).dtype


NODE_FAULTS: dict[str, tuple[str, Finder]] = {
    "padding off by one": ("padding at the other side", padding_off_by_one),
    "upsampling shifted": ("the crop of a transposed convolution is off by one", upsampling_shifted),
    "half-pixel shift of a resize": ("another convention of where pixels lie", resize_shifted),
    "another resize mode": ("nearest for linear", resize_mode),
    "dilation of two": ("a convolution with holes", dilated),
    "stride out of phase": ("TensorFlow's padding SAME", strided_phase),
    "activation dropped": ("a fusion lost it", relu_dropped),
    "leaky activation": ("a LeakyReLU for a ReLU", relu_leaky),
    "sigmoid dropped": ("logits for probabilities", sigmoid_dropped),
    "sigmoid doubled": ("probabilities are taken for logits", sigmoid_doubled),
    "epsilon of a norm": ("the default of another framework", epsilon),
    "skip connection lost": ("one branch of a sum", skip_lost),
    "concatenation in another order": ("the parts of a tensor changed places", concat_order),
    "another pooling": ("mean for maximum", pooling),
    "offset x and y swapped": ("another order of the offsets of a deformable convolution", offsets_swapped),
    "offsets in planes": ("all y before all x", offsets_in_planes),
    "offsets ignored": ("a plain convolution for a deformable one", offsets_ignored),
    "mask ignored": ("DCNv1 for DCNv2", mask_ignored),
}
"""Kinds of fault with their cause and what finds their places."""
