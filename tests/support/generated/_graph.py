"""A graph that grows, and the table of what can be added to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
LARGEST = 20_000
"""Elements that a tensor has at most."""


@dataclass(frozen=True)
class Value:
    """A float32 tensor of the graph."""

    name: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass
class Graph:
    """A graph that grows. ``try_node`` adds a node if shape inference takes it."""

    rng: np.random.Generator
    inputs: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def choice(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(self.rng.integers(low, high + 1))

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, array: Any) -> str:
        name = self.fresh("k")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def integers(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def node(self, operator: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [self.fresh(operator.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=self.fresh(f"node_{operator}"), **attributes))
        return names

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.node(operator, list(inputs), **attributes)[0]

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "generated",
            [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape) for value in self.inputs],
            [onnx.ValueInfoProto(name=name) for name in outputs], self.constants,
        )  # fmt: skip
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

    def inferred(self, name: str) -> Value | None:
        """Return a tensor with the shape that ONNX infers; None unless it is of float32, known and small."""
        try:
            model = onnx.shape_inference.infer_shapes(self.model([name]), strict_mode=True, data_prop=True)
        except Exception:
            return None
        (output,) = model.graph.output
        tensor = output.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
        if tensor.elem_type != TensorProto.FLOAT or min(dims, default=1) < 1 or np.prod(dims, initial=1) > LARGEST:
            return None
        return Value(name, tuple(dims))


Maker = Callable[[Graph, Value], "str | None"]
MAKERS: dict[str, Maker] = {}
"""By name: what adds a node or a few, and returns the name of the result; None where the input does not suit."""


def maker(function: Maker) -> Maker:
    MAKERS[function.__name__] = function
    return function
