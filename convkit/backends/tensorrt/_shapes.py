"""The shapes of a model's inputs, and the ranges that an engine is built for: ``batch=1:4:8``, ``x=1x3x32x32``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convkit.errors import SettingError, suggest

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphInput", "ShapeRange", "graph_inputs", "parse_ranges"]

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The lowest, best and highest shape of an input."""


@dataclass(frozen=True)
class GraphInput:
    """An input that a caller feeds: name, ONNX element type, and sizes, names or (where it has neither) None."""

    name: str
    element_type: int
    dims: tuple[int | str | None, ...]

    @property
    def dynamic(self) -> bool:
        """Whether its shape varies."""
        return any(not isinstance(dim, int) for dim in self.dims)

    def __str__(self) -> str:
        return f"{self.name} [{', '.join('?' if dim is None else str(dim) for dim in self.dims)}]"


def graph_inputs(model: onnx.ModelProto) -> list[GraphInput]:
    """Return the tensors that a caller feeds, in order: initializers that old files list as inputs are left out.

    Raises:
        SettingError: an input is a sequence or an optional value, or has no rank.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in held:
            continue
        tensor = value.type.tensor_type
        if value.type.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
            raise SettingError(
                f"The input {value.name!r} is not a tensor of known rank.", hint="Export the model with shapes."
            )
        dims = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor.shape.dim
        )
        found.append(GraphInput(value.name, tensor.elem_type, dims))
    return found


def parse_ranges(inputs: Sequence[GraphInput], texts: Iterable[str]) -> dict[str, ShapeRange]:
    """Return the range of every input; ``texts`` give those of named dimensions or of whole inputs.

    Raises:
        SettingError: a text cannot be read, names nothing of the model, has another rank or size than the model, does
            not rise from MIN to MAX, or has a size below 1; or a size that varies is not given.
    """
    sizes: dict[str, tuple[int, int, int]] = {}
    shapes: dict[str, ShapeRange] = {}
    names = {dim for given in inputs for dim in given.dims if isinstance(dim, str)}
    by_name = {given.name: given for given in inputs}
    for text in texts:
        name, _, value = text.strip().rpartition("=")
        parts = value.split(":")
        if not name or len(parts) not in (1, 3) or not all(re.fullmatch(r"\d+(?:x\d+)*", part) for part in parts):
            raise SettingError(
                f"--shape {text!r} is not a shape.",
                hint="Write NAME=MIN:OPT:MAX or NAME=N, with sizes for a dimension (batch=1:4:8) or whole shapes for an"
                " input (images=1x3x64x64:4x3x64x64:8x3x64x64).",
            )
        if name in sizes or name in shapes:
            raise SettingError(f"--shape gives {name!r} twice.", hint="Give each name once.")
        triple = [tuple(int(size) for size in part.split("x")) for part in (parts if len(parts) == 3 else parts * 3)]
        _check_order(name, triple)
        if name in names and all(len(shape) == 1 for shape in triple):
            sizes[name] = (triple[0][0], triple[1][0], triple[2][0])
        elif name in by_name:
            shapes[name] = (triple[0], triple[1], triple[2])
            _check_shape(by_name[name], shapes[name])
        else:
            raise SettingError(
                f"The model has no input and no dimension {name!r}.",
                hint=f"{suggest(name, names | set(by_name))} Its inputs are {', '.join(map(str, inputs))}.",
            )
    return {given.name: shapes.get(given.name) or _resolve(given, sizes) for given in inputs}


def _check_order(name: str, triple: Sequence[tuple[int, ...]]) -> None:
    low, best, high = triple
    if not len(low) == len(best) == len(high):
        raise SettingError(f"The shapes of {name!r} have different ranks.", hint="Give three shapes of one rank.")
    for axis, (a, b, c) in enumerate(zip(low, best, high, strict=True)):
        if not 1 <= a <= b <= c:
            where = "" if len(low) == 1 else f" on axis {axis}"
            raise SettingError(
                f"{name!r} has the range {a}:{b}:{c}{where}.", hint="Give 1 <= MIN <= OPT <= MAX, for example 1:4:8."
            )


def _check_shape(given: GraphInput, shapes: ShapeRange) -> None:
    if len(shapes[0]) != len(given.dims):
        raise SettingError(
            f"--shape gives {given.name!r} {len(shapes[0])} dimensions; the model gives it {len(given.dims)}.",
            hint=f"It is {given}.",
        )
    for axis, dim in enumerate(given.dims):
        if isinstance(dim, int) and {shape[axis] for shape in shapes} != {dim}:
            raise SettingError(
                f"--shape changes axis {axis} of {given.name!r}, which the model fixes at {dim}.",
                hint=f"It is {given}.",
            )


def _resolve(given: GraphInput, sizes: Mapping[str, tuple[int, int, int]]) -> ShapeRange:
    triple: list[tuple[int, int, int]] = []
    for dim in given.dims:
        if isinstance(dim, int):
            triple.append((dim, dim, dim))
        elif dim is not None and dim in sizes:
            triple.append(sizes[dim])
        else:
            way = f"--shape {dim}=1:1:8" if dim else f"--shape {given.name}={'x'.join('1' for _ in given.dims)}:…:…"
            raise SettingError(
                f"The input {given} varies in size, and no range is given.", hint=f"Give one, for example {way}."
            )
    low, best, high = (tuple(sizes[place] for sizes in triple) for place in range(3))
    return low, best, high
