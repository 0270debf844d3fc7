"""What a builder of a torch operator sees: one node of the graph, its constants and what produces its inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from convkit.backends.torch._accept import Attributes, Declared, refuse
from convkit.errors import EnvironmentProblem

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Builder",
    "Function",
    "Key",
    "TorchNode",
    "domain_of",
    "host_tensor",
    "make_node",
    "operator",
    "torch_dtype",
]

Function = Callable[..., Any]
"""Tensors of a node (None for an input that is left out) to its result, or a tuple of results."""
Builder = Callable[["TorchNode"], "Function | tuple[Function, Sequence[str]] | None"]
"""A node to the function of its inputs, or to a function and the names of the values that it takes instead.

What a key of several operators names (``"Conv+Relu"``) is a chain; its builder gets the last node, looks
upstream with `TorchNode.source`, and may return None for a chain that it leaves to the single operators.
"""
Key = tuple[str, str]
"""Domain (empty for ONNX itself) and operator."""

_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def torch_dtype(number: int, precision: torch.dtype | None = None) -> torch.dtype:
    """Return the type that ONNX gives this number; ``precision`` takes the place of float32.

    Raises:
        EnvironmentProblem: PyTorch has no such type.
    """
    if number not in _DTYPES:
        raise EnvironmentProblem(
            f"The graph holds tensors of ONNX type {number}, which the torch backend lacks.",
            hint="Use --backend onnxruntime.",
        )
    dtype = _DTYPES[number]
    return precision if precision is not None and dtype == torch.float32 else dtype


def host_tensor(values: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor on the host, in the same memory where it may be written to.

    Bfloat16, which NumPy has from elsewhere, stays what it is.
    """
    if values.dtype.name == "bfloat16":
        return host_tensor(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values) if values.flags.writeable else torch.tensor(values)


@dataclass(frozen=True, eq=False)
class TorchNode:
    """A node of the ONNX graph, for the builder that turns it into torch calls.

    ``inputs`` and ``outputs`` are names of values, an empty one where an optional input is left out. A node with an
    attribute that its builder has not looked at is refused.
    ``device`` and ``precision`` are what the session was opened with; ``precision`` None keeps the types
    of the graph.
    """

    op_type: str
    domain: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes
    device: torch.device
    precision: torch.dtype | None
    constants: Mapping[str, np.ndarray] = field(repr=False)
    producers: Mapping[str, TorchNode] = field(repr=False)
    uses: Mapping[str, int] = field(repr=False)

    def has(self, position: int) -> bool:
        """Tell whether the input at this position is given."""
        return position < len(self.inputs) and self.inputs[position] != ""

    def constant(self, position: int) -> np.ndarray | None:
        """Return an input that is known ahead of time, in the type of the graph; None for any other."""
        return self.constants.get(self.inputs[position]) if self.has(position) else None

    def integers(self, position: int, attribute: str = "") -> list[int] | None:
        """Return a list of integers from a constant input or, where that is not given, from an attribute."""
        found = self.constant(position)
        if found is not None:
            return [int(value) for value in found.reshape(-1)]
        value = self.attributes.get(attribute)
        return [int(item) for item in value] if value is not None and not self.has(position) else None

    def choice(self, attribute: str, default: str, *known: str) -> str:
        """Return a word among those that a translation knows.

        Raises:
            EnvironmentProblem: the attribute is another word.
        """
        value = self.attributes.get(attribute, default)
        if value not in known:
            raise refuse(self, f"its {attribute} is {value!r}, and the backend knows {', '.join(known)}")
        return str(value)

    def ignore(self, *attributes: str) -> None:
        """Say that these attributes make no difference to what the translation computes."""
        self.attributes.read.update(attributes)

    def source(self, position: int) -> TorchNode | None:
        """Return the node whose result this input is; None for constants and inputs of the graph."""
        return self.producers.get(self.inputs[position]) if self.has(position) else None

    def only_use(self, name: str) -> bool:
        """Tell whether one node alone reads this value, and it is no output of the graph."""
        return self.uses.get(name) == 1

    def tensor(self, values: np.ndarray) -> torch.Tensor:
        """Return a constant on the session's device, in its floating type."""
        dtype = self.precision if self.precision is not None and values.dtype == np.float32 else None
        return host_tensor(values).to(self.device, dtype)

    def dtype(self, number: int) -> torch.dtype:
        """Return the torch type that stands for an ONNX type number in this session."""
        return torch_dtype(number, self.precision)

    @property
    def title(self) -> str:
        """The node as people know it: operator, domain and name."""
        return f"{self.domain or 'ai.onnx'}::{self.op_type} {self.name!r}"


def operator(
    table: dict[Key, Builder],
    *names: str,
    types: Collection[torch.dtype],
    outputs: int | None = 1,
    host: Sequence[int] = (),
    **more: Any,
) -> Callable[[Builder], Builder]:
    """Enter a builder for these ONNX operators; the settings are those of `Declared`."""

    def enter(builder: Builder) -> Builder:
        builder.declared = Declared(types, outputs=outputs, host=tuple(host), **more)  # type: ignore[attr-defined]
        for name in names:
            table["", name] = builder
        return builder

    return enter


def make_node(proto: onnx.NodeProto, **context: Any) -> TorchNode:
    """Return the node of a proto; ``context`` are the fields that it shares with the rest of the graph.

    Raises:
        EnvironmentProblem: an attribute is a graph or of another kind that the backend lacks.
    """
    from onnx import AttributeProto, helper, numpy_helper

    attributes: dict[str, Any] = {}
    inputs = list(proto.input)
    while inputs and not inputs[-1]:
        del inputs[-1]
    for attribute in proto.attribute:
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            raise EnvironmentProblem(
                f"The torch backend cannot run {proto.domain or 'ai.onnx'}::{proto.op_type} {proto.name!r}:"
                " it holds a graph of its own.",
                hint="Use --backend onnxruntime.",
            )
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            value = numpy_helper.to_array(value)
        elif attribute.type == AttributeProto.STRING:
            value = value.decode(errors="replace")
        attributes[attribute.name] = value
    return TorchNode(
        proto.op_type, domain_of(proto.domain), proto.name, inputs=tuple(inputs), outputs=tuple(proto.output),
        attributes=Attributes(attributes), **context,
    )  # fmt: skip


def domain_of(name: str) -> str:
    """Return the domain of an operator; that of ONNX itself has two names, of which the empty one is kept."""
    return "" if name == "ai.onnx" else name
