"""Faults of typed graphs: values that saturate, scales of int8 that are wrong, float32 islands that are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from convkit.graph import PRECISION_KEY, metadata_of
from convkit.self_test._graph import WEIGHTED, Graph, Spot

__all__ = ["PRECISION_FAULTS"]

Finder = Callable[[Graph, np.random.Generator], Iterator[Spot]]
NARROW = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
LARGE_MAP = 64.0
"""A coordinate of a map at which float16 has steps of a sixteenth."""


def clamped(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """What is beyond a quarter of a layer's largest magnitude saturates, as sums do beyond the range of a type."""
    del rng

    def change(copy: Graph, node: onnx.NodeProto) -> None:
        name, dtype = node.output[0], graph.dtype_near(node)
        part = copy.add_constant(f"{name}/part", _scalar(0.25, dtype))
        inner = f"{name}/whole"
        place = list(copy.nodes).index(node) + 1
        node.output[0] = inner
        steps = (
            ("Abs", [inner], f"{name}/size"), ("ReduceMax", [f"{name}/size"], f"{name}/largest"),
            ("Mul", [f"{name}/largest", part], f"{name}/top"), ("Neg", [f"{name}/top"], f"{name}/bottom"),
            ("Min", [inner, f"{name}/top"], f"{name}/below"), ("Max", [f"{name}/below", f"{name}/bottom"], name),
        )  # fmt: skip
        for number, (kind, inputs, output) in enumerate(steps):
            copy.nodes.insert(place + number, helper.make_node(kind, inputs, [output], name=f"{output}/planted"))

    for node in graph.of(*WEIGHTED):
        if graph.dtype_near(node) in NARROW and node.output[0] not in graph.outputs:
            yield graph.at(node, change)


def _scalar(value: float, dtype: str) -> np.ndarray:
    return np.array(value, helper.tensor_dtype_to_np_dtype(NARROW[dtype]))


def _scales(change: Callable[[np.ndarray], np.ndarray], *, each: bool) -> Finder:
    """Return what finds the scales by which int8 becomes numbers again, ``each`` those with one a channel."""

    def find(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
        del rng

        def wrong(copy: Graph, node: onnx.NodeProto) -> None:
            old = copy.constant(node.input[1])
            value = change(old).astype(old.dtype)
            node.input[1] = copy.add_constant(f"{node.output[0]}/wrong", value)

        for node in graph.of("DequantizeLinear"):
            if graph.is_constant(node.input[1]):
                scales = graph.constant(node.input[1])
                if not each or len(set(scales.reshape(-1).tolist())) > 1:
                    yield graph.at(node, wrong)

    return find


def island_missing(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """What stays float32 on purpose is rounded to 16 bits, node by node."""
    del rng
    dtype = _narrow_type(graph)
    kept = [number for number, node in enumerate(graph.nodes) if metadata_of(node, PRECISION_KEY)]
    types = {value.name: value.type.tensor_type.elem_type for value in _inferred(graph.model)}
    names = [name for number in kept for name in graph.nodes[number].output if types.get(name) == TensorProto.FLOAT]
    if not dtype or not names:
        return

    def rounded(copy: Graph) -> None:
        for name in names:
            copy.after(name, ("Cast", ()), ("Cast", ()))
            back = copy.producer(name)
            assert back is not None
            there = copy.producer(back.input[0])
            assert there is not None
            copy.set_attribute(there, "to", NARROW[dtype])
            copy.set_attribute(back, "to", TensorProto.FLOAT)

    yield Spot(f"{len(names)} tensors that are float32 in the graph", rounded)


def positions_narrow(graph: Graph, rng: np.random.Generator) -> Iterator[Spot]:
    """Deformable convolutions that add offsets to coordinates in 16 bits, in a map of 64 pixels or more.

    int8 graphs have no place for it: what their steps move is more.
    """
    del rng
    if any(True for _ in graph.of("DequantizeLinear")):
        return
    layers = [node.output[0] for node in graph.of("DeformConv") if graph.dtype_near(node) in NARROW]

    def narrow(copy: Graph) -> None:
        for output in layers:
            node = copy.producer(output)
            assert node is not None
            large = copy.add_constant(f"{output}/coordinate", _scalar(LARGE_MAP, graph.dtype_near(node)))
            place = list(copy.nodes).index(node)
            for number, (kind, result) in enumerate((("Add", "moved"), ("Sub", "back"))):
                source, name = node.input[2], f"{output}/{result}"
                copy.nodes.insert(place + number, helper.make_node(kind, [source, large], [name], name=name))
                node.input[2] = name

    if layers:
        yield Spot(f"{len(layers)} deformable convolutions", narrow)


def _narrow_type(graph: Graph) -> str:
    return next((dtype for node in graph.of(*WEIGHTED) if (dtype := graph.dtype_near(node)) in NARROW), "")


def _inferred(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    found = onnx.shape_inference.infer_shapes(model).graph
    return [*found.value_info, *found.output]


PRECISION_FAULTS: dict[str, tuple[str, Finder]] = {
    "float16 clamp": ("a scaled sum left the range of its type and saturated", clamped),
    "a scale wrong by 2": (
        "the scale of one side of a quantisation", _scales(lambda scale: scale * np.float32(2), each=False)
    ),
    "scales of channels moved": (
        "scales along the wrong axis or in another order", _scales(lambda scale: np.roll(scale, 1), each=True)
    ),
    "a float32 island missing": ("what must stay float32 was typed as the rest", island_missing),
    "coordinates in 16 bits": ("a kernel that adds offsets in the type of its input", positions_narrow),
}  # fmt: skip
"""Kinds of fault of typed graphs with their cause and what finds their places; float32 graphs have none."""
