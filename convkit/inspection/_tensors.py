"""Constant tensors of a graph, compared by their elements."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from convkit.inspection._shapes import dtype_name

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["Constant", "constants"]


@dataclass(frozen=True)
class Constant:
    """An initializer, or the value of a Constant node."""

    name: str
    tensor: onnx.TensorProto
    is_initializer: bool = True

    @property
    def dtype(self) -> str:
        """The element type, as NumPy names it."""
        return dtype_name(self.tensor.data_type)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""
        return tuple(self.tensor.dims)

    @cached_property
    def values(self) -> np.ndarray | None:
        """The elements, or None in a file whose data do not fit the shape or dtype that it declares."""
        import onnx

        try:
            return onnx.numpy_helper.to_array(self.tensor)
        except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError):
            return None

    @cached_property
    def digest(self) -> str:
        """The SHA-256 over dtype, shape and elements, whichever field of the file they are in."""
        if self.values is None:
            elements = self.tensor.SerializeToString(deterministic=True)
        else:
            elements = repr(self.values.tolist()).encode() if self.dtype == "string" else self.values.tobytes()
        return hashlib.sha256(f"{self.dtype}{self.shape}".encode() + elements).hexdigest()

    def difference(self, other: Constant) -> str:
        """Return in words how ``other`` differs, or an empty string if it does not."""
        if self.digest == other.digest:
            return ""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return f"{self.dtype} {list(self.shape)} -> {other.dtype} {list(other.shape)}"
        largest = self.max_abs_difference(other)
        return "values differ" if largest is None else f"values differ by up to {largest:.3g}"

    def max_abs_difference(self, other: Constant) -> float | None:
        """Return the largest absolute difference of two tensors, compared in float64.

        None if the shapes differ, or an element is not a finite number.
        """
        import numpy as np

        mine, theirs = self.values, other.values
        if mine is None or theirs is None or self.shape != other.shape or "string" in (self.dtype, other.dtype):
            return None
        if not mine.size:
            return None
        wide = np.complex128 if "complex" in self.dtype + other.dtype else np.float64
        with np.errstate(invalid="ignore"):
            largest = float(np.abs(theirs.astype(wide) - mine.astype(wide)).max())
        return largest if np.isfinite(largest) else None


def constants(graph: onnx.GraphProto) -> dict[str, Constant]:
    """Return the initializers and Constant nodes of a graph by tensor name."""
    table = {tensor.name: Constant(tensor.name, tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or not node.output:
            continue
        for attribute in node.attribute:
            tensor = attribute.t if attribute.name == "value" else _tensor(attribute)
            if tensor is not None:
                table[node.output[0]] = Constant(node.output[0], tensor, is_initializer=False)
    return table


def _tensor(attribute: onnx.AttributeProto) -> onnx.TensorProto | None:
    """Return the tensor that a Constant node makes of its ``value_float``, ``value_ints`` and so on."""
    import onnx

    kinds = {"float": onnx.TensorProto.FLOAT, "int": onnx.TensorProto.INT64, "string": onnx.TensorProto.STRING}
    name = attribute.name.removeprefix("value_")
    kind, several = kinds.get(name.removesuffix("s")), name.endswith("s")
    if kind is None:
        return None
    try:
        value = onnx.helper.get_attribute_value(attribute)
        return onnx.helper.make_tensor("", kind, [len(value)] if several else [], value if several else [value])
    except (ValueError, TypeError, OverflowError):  # of another type than its name says, or a reference
        return None
