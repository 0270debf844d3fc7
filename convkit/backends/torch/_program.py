"""An ONNX graph as a list of torch calls, made once and run often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from convkit.backends.torch._accept import (
    Declared,
    check_arity,
    check_inputs,
    check_node,
    check_types,
    declared_by,
    refuse,
    unread_attributes,
)
from convkit.backends.torch._edges import NARROW, entries, narrow_results
from convkit.backends.torch._element_types import element_types
from convkit.backends.torch._node import (
    Builder,
    Function,
    Key,
    TorchNode,
    domain_of,
    host_tensor,
    make_node,
    torch_dtype,
)
from convkit.errors import ConvkitError, EnvironmentProblem

if TYPE_CHECKING:
    import onnx

__all__ = ["Program"]

LONGEST_CHAIN = 3
_CASTS = ("Cast", "CastLike")
"""Operators whose result is not of the type that they read."""


@dataclass
class Step:
    """One call: the slots that it reads (-1 for nothing), writes, and empties when it is done.

    ``passed`` are those that it empties where no output is kept.

    ``uploads`` are the positions of arguments that lie on the host and have to go to the device;
    ``known`` holds what went there before, by position and value. ``checked`` tells that the types of all arguments
    were known and checked when the program was made.
    """

    node: TorchNode
    function: Function
    inputs: Sequence[str]
    declared: Declared
    checked: bool
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)
    known: dict[tuple[int, bytes], Tensor] = field(default_factory=dict)
    wanted: int = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = max((place for place, name in enumerate(self.node.outputs, 1) if name), default=0)


class Program:
    """A graph made ready to run on one device.

    Shapes and other integers that follow from shapes and constants are computed on the host, so that
    a run never waits for the device. A value is dropped after its last use. ``precision`` stands in
    for float32 everywhere inside of the graph; ``channels_last`` is the layout of 4-d inputs and weights.
    On the CPU an operator of 16-bit tensors computes in float32 and rounds its results once, as a GPU does;
    PyTorch's own 16-bit convolutions take a hundred times as long there.

    The casts at the edges of a typed graph are left to who feeds and reads it: an input that only casts to one 16-bit
    type read enters in that type, and an output that is 16-bit but for its last cast leaves so.

    ``running`` is the node that a run is at, for messages.

    Raises:
        EnvironmentProblem: an operator of the graph is in no table, or set in a way that torch lacks.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        table: Mapping[Key, Builder],
        device: torch.device,
        precision: torch.dtype | None = None,
        channels_last: bool = False,
    ) -> None:
        from onnx import numpy_helper

        self.device, self.precision, self.channels_last = device, precision, channels_last
        self._widens = device.type == "cpu"
        constants = {item.name: np.array(numpy_helper.to_array(item)) for item in model.graph.initializer}
        fed = [value for value in model.graph.input if value.name not in constants]
        self.inputs = {value.name: torch_dtype(value.type.tensor_type.elem_type) for value in fed}
        self.outputs = {value.name: torch_dtype(value.type.tensor_type.elem_type) for value in model.graph.output}
        nodes = _nodes(model, constants, device=device, precision=precision)
        types = element_types(model)
        self._steps = _steps(nodes, table, set(self.outputs), types)
        self._entries = entries(self._steps, self.inputs, self.outputs)
        self._results = {name: name for name in self.outputs} | narrow_results(self._steps, self.outputs, types)
        spared = {name for name, source in self._results.items() if name != source}
        self._steps = [step for step in self._steps if spared.isdisjoint(step.node.outputs)]
        self._names: dict[str, list[str]] = {}
        for name, source in self._results.items():
            self._names.setdefault(source, []).append(name)
        self.running = ""
        self._slots: dict[str, int] = {}
        self._template: list[Tensor | None] = []
        self._steady: set[int] = set()
        self._wide: dict[int, tuple[Tensor, Tensor]] = {}
        self._place(constants)

    def run(
        self, inputs: Mapping[str, Tensor], take: Callable[[str, Tensor], object] | None = None
    ) -> dict[str, Tensor]:
        """Return the outputs as they were computed, on the device, for tensors in the types of `entry`.

        With ``take`` none is returned: it is called with each, once it is computed.
        """
        values = list(self._template)
        for name, value in inputs.items():
            if name in self._slots:
                values[self._slots[name]] = value
        with torch.inference_mode():
            for step in self._steps:
                self.running = step.node.title
                arguments = [values[slot] if slot >= 0 else None for slot in step.sources]
                for position in step.uploads:
                    arguments[position] = self._upload(step, position, arguments[position])
                if not step.checked:
                    check_types(step.node, step.declared, arguments)
                result = self._computed_wide(step, arguments) if self._widens else step.function(*arguments)
                results = result if isinstance(result, tuple) else (result,)
                if len(results) < step.wanted:
                    raise refuse(
                        step.node, f"{step.wanted} results are wanted, and the backend computes {len(results)}"
                    )
                for slot, value in zip(step.targets, results, strict=False):
                    values[slot] = value
                if take is not None:
                    for name, value in zip(step.node.outputs, results, strict=False):
                        for output in self._names.get(name, ()):
                            take(output, value.to(self.device))
                for slot in step.spent if take is None else step.passed:
                    values[slot] = None
            self.running = ""
        found = {name: values[self._slots[source]] for name, source in self._results.items()}
        given = {name: value.to(self.device) for name, value in found.items() if value is not None}
        if take is not None:  # inputs and constants, which no step computes
            for name, value in given.items():
                take(name, value)
            return {}
        return given

    def entry(self, name: str) -> torch.dtype:
        """Return the type in which an input enters the program."""
        dtype = self._entries.get(name, self.inputs[name])
        return self.precision if self.precision is not None and dtype == torch.float32 else dtype

    def _computed_wide(self, step: Step, arguments: Sequence[Tensor | None]) -> Any:
        """Return what a step computes in float32 from 16-bit tensors, rounded to their type."""
        narrow = next((value.dtype for value in arguments if value is not None and value.dtype in NARROW), None)
        if narrow is None or step.node.op_type in _CASTS:
            return step.function(*arguments)
        result = step.function(*map(self._widened, step.sources, arguments))
        if isinstance(result, tuple):
            return tuple(_rounded(value, narrow) for value in result)
        return _rounded(result, narrow)

    def _widened(self, slot: int, value: Tensor | None) -> Tensor | None:
        """Return a 16-bit argument in float32; of a constant there is one copy."""
        if value is None or value.dtype not in NARROW:
            return value
        if slot not in self._steady:
            return value.float()
        kept = self._wide.get(slot)
        if kept is None or kept[0] is not value:
            kept = self._wide[slot] = (value, value.float())
        return kept[1]

    def _upload(self, step: Step, position: int, value: Tensor | None) -> Tensor | None:
        """Return a small host tensor on the device; one that was there before is not copied again.

        A captured run thus finds everything in place that the run before it needed.
        """
        if value is None or value.device == self.device:
            return value
        key = (position, f"{value.dtype}{tuple(value.shape)}".encode() + value.numpy().tobytes())
        if key not in step.known:
            step.known[key] = value.to(self.device)
        return step.known[key]

    def _place(self, constants: Mapping[str, np.ndarray]) -> None:
        """Give each value a slot, decide what stays on the host, and put the constants in their places."""
        numbers = count()
        slot = {name: next(numbers) for name in self.inputs}
        fixed: dict[int, Tensor] = {}
        on_host: set[str] = {name for name, value in constants.items() if value.dtype.kind in "iub"}

        def constant(name: str, host: bool) -> int:
            key = f"{name} on the host" if host else name
            if key not in slot:
                slot[key] = next(numbers)
                fixed[slot[key]] = host_tensor(constants[name]) if host else self._constant(constants[name])
            return slot[key]

        for step in self._steps:
            given = [name for name in step.inputs if name]
            host = bool(given) and all(name in on_host for name in given)
            for position, name in enumerate(step.inputs):
                stays = host or position in step.declared.host
                if name in constants:
                    step.sources.append(constant(name, stays))
                    continue
                if name and name not in slot:
                    raise EnvironmentProblem(
                        f"{step.node.title} reads {name!r}, which nothing in the graph makes.",
                        hint="The file is damaged; convert again.",
                    )
                step.sources.append(slot[name] if name else -1)
                if name in on_host and not stays:
                    step.uploads.append(position)
            for name in step.node.outputs:
                slot.setdefault(name, next(numbers))
                step.targets.append(slot[name])
                if host or step.declared.gives_host:
                    on_host.add(name)
        for name in self.outputs:
            if name not in slot and name in constants:
                constant(name, False)
        results = {slot[name] for name in self._results.values()}
        made = {number for step in self._steps for number in step.targets}
        _empty(self._steps, "spent", set(fixed) | results)
        _empty(self._steps, "passed", set(fixed) | (results - made))
        self._slots = slot
        self._steady = set(fixed) | {target for step in self._steps if not step.sources for target in step.targets}
        self._template = [fixed.get(number) for number in range(next(numbers))]

    def _constant(self, values: np.ndarray) -> Tensor:
        dtype = self.precision if self.precision is not None and values.dtype == np.float32 else None
        tensor = host_tensor(values).to(self.device, dtype)
        if self.channels_last and tensor.dim() == 4:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor


def _empty(steps: Sequence[Step], field: str, kept: set[int]) -> None:
    """Set a field of each step to the slots that nothing needs after it."""
    for step in reversed(steps):
        numbers = [number for number in {*step.sources, *step.targets} - kept if number >= 0]
        setattr(step, field, numbers)
        kept.update(numbers)


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.dtype == torch.float32 else value


def _nodes(model: onnx.ModelProto, constants: dict[str, np.ndarray], **context: Any) -> list[TorchNode]:
    """Return the nodes in order; those that are constants go into ``constants``."""
    opsets = {domain_of(item.domain): item.version for item in model.opset_import}
    uses = Counter(name for proto in model.graph.node for name in set(proto.input))
    uses.update(value.name for value in model.graph.output)
    producers: dict[str, TorchNode] = {}
    nodes = []
    for proto in model.graph.node:
        node = make_node(
            proto, opset=opsets.get(domain_of(proto.domain), 1), constants=constants, producers=producers, uses=uses,
            **context,
        )  # fmt: skip
        if node.op_type == "Constant" and not node.domain:
            constants[node.outputs[0]] = _value(node)
            continue
        producers.update({name: node for name in node.outputs if name})
        nodes.append(node)
    return nodes


def _value(node: TorchNode) -> np.ndarray:
    """Return the value of a Constant."""
    for name, dtype in (
        ("value", None), ("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
        ("value_ints", np.int64),
    ):  # fmt: skip
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype)
    raise refuse(node, f"its value is given by {', '.join(node.attributes) or 'nothing'}")


def _steps(
    nodes: Sequence[TorchNode], table: Mapping[Key, Builder], wanted: set[str], types: Mapping[str, torch.dtype | str]
) -> list[Step]:
    """Return the steps for the values that are wanted, in order; what none of them needs is left out."""
    needed, steps = set(wanted), []
    for node in reversed(nodes):
        if needed.isdisjoint(node.outputs):
            continue
        step = _build(node, table, types)
        needed.update(step.inputs)
        steps.append(step)
    return steps[::-1]


def _build(node: TorchNode, table: Mapping[Key, Builder], types: Mapping[str, torch.dtype | str]) -> Step:
    """Return the step of a node, by the builder of the longest chain that ends in it and does not decline.

    A chain whose builder passes over an attribute of one of its nodes is left to the single operators.
    """
    for chain in sorted(_chains(node, LONGEST_CHAIN), key=len, reverse=True):
        builder = table.get((chain[0].domain, "+".join(link.op_type for link in chain)))
        if builder is None:
            continue
        for link in chain:
            link.attributes.read.clear()
        built = _called(builder, node)
        unread = [name for link in chain for name in unread_attributes(link)]
        if built is None or (unread and len(chain) > 1):
            continue
        if unread:
            raise refuse(node, f"it has the attribute {unread[0]!r}, which the translation does not know")
        function, inputs = built if isinstance(built, tuple) else (built, node.inputs)
        own = declared_by(builder) if len(chain) == 1 else Declared()
        known = [_accepted(link, table, types) for link in chain]
        check_arity(node, function, len(inputs))
        return Step(node, function, inputs, own, all(known))
    raise EnvironmentProblem(
        f"The torch backend has no operator {node.domain or 'ai.onnx'}::{node.op_type} (opset {node.opset},"
        f" node {node.name!r}).",
        hint="Use --backend onnxruntime, or add it with the hook convkit_torch_operators (docs/hooks.md).",
    )


def _called(builder: Builder, node: TorchNode) -> Any:
    """Return what a builder makes of a node; what it raises becomes a refusal of the node."""
    try:
        return builder(node)
    except ConvkitError:
        raise
    except Exception as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise refuse(node, reason or type(error).__name__) from error


def _accepted(node: TorchNode, table: Mapping[Key, Builder], types: Mapping[str, torch.dtype | str]) -> bool:
    """Refuse a node that its translation does not know; return whether the types of all inputs are known."""
    declared = declared_by(table.get((node.domain, node.op_type)))
    check_node(node, declared)
    return check_inputs(node, declared, types)


def _chains(node: TorchNode, length: int) -> Iterator[tuple[TorchNode, ...]]:
    """Yield the chains of nodes that end in this one, each but the last read by the next alone."""
    yield (node,)
    if length == 1:
        return
    for position in range(len(node.inputs)):
        source = node.source(position)
        if source is not None and len(source.outputs) == 1 and node.only_use(source.outputs[0]):
            for chain in _chains(source, length - 1):
                yield *chain, node
