"""What a translation accepts: the types, outputs and opsets that it declares, and the attributes that it looks at.

Whatever else a node has is refused, so that nothing in a graph is passed over in silence.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from convkit.errors import EnvironmentProblem

if TYPE_CHECKING:
    from convkit.backends.torch._node import TorchNode

__all__ = [
    "ANY", "FLOATS", "INTEGERS", "LOGICAL", "NEWEST_OPSET", "NUMBERS", "OLDEST_OPSET", "Attributes", "Declared",
    "check_arity", "check_inputs", "check_node", "check_types", "declared_by", "refuse", "unread_attributes",
]  # fmt: skip

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
INTEGERS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
LOGICAL = frozenset({torch.bool})
NUMBERS = FLOATS | INTEGERS
ANY = NUMBERS | LOGICAL

OLDEST_OPSET = 7
"""Before, operators broadcast by an attribute, and those of training trained unless told otherwise."""
NEWEST_OPSET = 28
"""The opset whose definitions the translations follow; an operator that changed since is refused."""


class Attributes(Mapping[str, Any]):
    """The attributes of a node by name, which remembers the ones that were looked at."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Declared:
    """What a translation handles.

    ``types`` are those of the inputs, except at the positions of ``apart``. ``outputs`` is how many of the results it
    computes, None for any number. ``host`` are the positions of inputs that are read as numbers on the host (shapes,
    axes); ``gives_host`` marks operators whose result is such a value whatever they are applied to. ``oldest`` is the
    first opset whose definition it follows.
    """

    types: Collection[torch.dtype] = ANY
    apart: Mapping[int, Collection[torch.dtype]] = field(default_factory=dict)
    outputs: int | None = None
    host: tuple[int, ...] = ()
    gives_host: bool = False
    oldest: int = OLDEST_OPSET

    def takes(self, position: int) -> Collection[torch.dtype]:
        """Return the types that an input may have."""
        return self.apart.get(position, ANY if position in self.host else self.types)


def declared_by(builder: Any) -> Declared:
    """Return what a builder declares; one that declares nothing takes all types that the backend has."""
    found: Declared = getattr(builder, "declared", Declared())
    return found


def refuse(node: TorchNode, reason: str) -> EnvironmentProblem:
    """Return the error for a node whose settings the backend cannot run."""
    return EnvironmentProblem(
        f"The torch backend cannot run {node.title}: {reason}.", hint="Use --backend onnxruntime, or report the model."
    )


def check_node(node: TorchNode, declared: Declared) -> None:
    """Raise `EnvironmentProblem` if a node is of another opset, or has more results, than its translation declares."""
    if not node.domain:
        since = _since(node)
        if since > NEWEST_OPSET or node.opset < declared.oldest:
            raise refuse(
                node,
                f"it is the operator of opset {max(since, node.opset) if since > NEWEST_OPSET else node.opset}, and the"
                f" backend knows those of {declared.oldest} to {NEWEST_OPSET}",
            )
    wanted = [place for place, name in enumerate(node.outputs) if name]
    if declared.outputs is not None and wanted and wanted[-1] >= declared.outputs:
        count = "one result" if declared.outputs == 1 else f"{declared.outputs} results"
        raise refuse(node, f"its result {node.outputs[wanted[-1]]!r} is wanted, and the backend computes {count}")


def _since(node: TorchNode) -> int:
    """Return the opset in which the definition of a node's operator appeared; its own opset where that is not known."""
    import onnx

    if node.opset > onnx.defs.onnx_opset_version():
        return node.opset
    try:
        return int(onnx.defs.get_schema(node.op_type, node.opset, "").since_version)
    except onnx.defs.SchemaError:
        return node.opset


def unread_attributes(node: TorchNode) -> list[str]:
    """Return the attributes of a node that nothing has looked at, in order."""
    read = node.attributes.read if isinstance(node.attributes, Attributes) else set(node.attributes)
    return sorted(name for name in node.attributes if name not in read)


def check_arity(node: TorchNode, function: Any, given: int) -> None:
    """Raise `EnvironmentProblem` if a translation takes fewer inputs than it is given."""
    most = _positional(function)
    if most is not None and given > most:
        raise refuse(node, f"it has {given} inputs, and the translation knows {most}")


def check_inputs(node: TorchNode, declared: Declared, types: Mapping[str, torch.dtype | str]) -> bool:
    """Raise `EnvironmentProblem` if an input is of a type that the translation of a node does not know.

    Returns:
        Whether the types of all inputs are known, so that no run has to look at them.
    """
    given = {position: name for position, name in enumerate(node.inputs) if name}
    for position, name in given.items():
        if name in types:
            check_type(node, position, types[name], declared)
    return all(name in types for name in given.values())


def check_types(node: TorchNode, declared: Declared, tensors: Sequence[torch.Tensor | None]) -> None:
    """Raise `EnvironmentProblem` if a tensor is of a type that the translation of a node does not know."""
    for position, tensor in enumerate(tensors):
        if tensor is not None:
            check_type(node, position, tensor.dtype, declared)


def check_type(node: TorchNode, position: int, dtype: torch.dtype | str, declared: Declared) -> None:
    """Raise `EnvironmentProblem` if a type is none that an input of a node may have."""
    if dtype not in declared.takes(position):
        name = node.inputs[position] if position < len(node.inputs) else str(position)
        raise refuse(node, f"its input {name!r} is of {str(dtype).removeprefix('torch.')}")


def _positional(function: Any) -> int | None:
    """Return how many arguments a function takes, None where it takes any number or does not say."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in kinds for parameter in parameters)
