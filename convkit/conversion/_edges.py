"""The types of inputs and outputs, which may be narrower than float32 where the graph computes in 16 bits."""

from __future__ import annotations

from typing import Any

from convkit.errors import ConversionError, SettingError
from convkit.model import ModelSpec, Precision, TensorSpec, find_precision

__all__ = ["changed_edges", "engine_edges", "narrow_edges", "read_edges"]

EDGES = ("fp32", "fp16")
"""The precisions of inputs and outputs."""


def read_edges(value: Any) -> str:
    """Return the precision of inputs and outputs that a setting names.

    Raises:
        ValueError: there is none; its text is what to do.
    """
    if value == "bf16":
        raise ValueError("NumPy has no bfloat16: leave it out, inputs and outputs of a bf16 graph are then fp32.")
    if value not in EDGES:
        raise ValueError(f"Give {' or '.join(EDGES)}: the other types of inputs and outputs are the model's own.")
    return str(value)


def narrow_edges(spec: ModelSpec, precision: str) -> ModelSpec:
    """Return the specification with inputs and outputs of a precision.

    Raises:
        ConversionError: none of them is float32.
    """
    found = spec.with_edges(find_precision(precision).dtype)
    if found == spec:
        types = ", ".join(f"{tensor.name} {tensor.dtype}" for tensor in _edges(spec))
        raise ConversionError(
            f"No input or output can become {precision}: {types}.",
            hint="Leave --io-precision out. Integers stay what they are, and so do rows of results.",
        )
    return found


def changed_edges(before: ModelSpec, after: ModelSpec) -> dict[str, str]:
    """Return the inputs and outputs whose type differs, with that of ``after``, by name."""
    pairs = zip(_edges(before), _edges(after), strict=True)
    return {new.name: new.dtype for old, new in pairs if old.dtype != new.dtype}


def engine_edges(spec: ModelSpec, kind: Precision, asked: str | None) -> ModelSpec:
    """Return the specification of an engine in the precision ``kind`` of an artifact with ``spec``.

    ``asked`` is the precision of inputs and outputs, by default that of the artifact.

    Raises:
        SettingError: there is no such precision, the engine does not compute in it, or the artifact has a narrower one.
        ConversionError: no input or output can have it.
    """
    if asked is None:
        return spec
    try:
        read_edges(asked)
    except ValueError as error:
        raise SettingError(f"io_precision cannot be {asked!r}.", hint=str(error)) from None
    narrow = [tensor.name for tensor in _edges(spec) if tensor.dtype == "float16" and tensor.compare == "values"]
    if asked == "fp32":
        if narrow:
            raise SettingError(
                f"io_precision cannot be fp32: {', '.join(narrow)} of the artifact {'is' * (len(narrow) == 1)}"
                f"{'are' * (len(narrow) > 1)} float16.",
                hint="Leave --io-precision out, or convert again without it.",
            )
        return spec
    if asked not in (kind.name, kind.rest):
        raise SettingError(
            f"io_precision {asked} is for engines in {asked} or int8, and this one is in {kind.name}.",
            hint=f"Add --precision {asked}, or leave --io-precision out.",
        )
    return spec if narrow else narrow_edges(spec, asked)


def _edges(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    return (*spec.inputs, *spec.outputs)
