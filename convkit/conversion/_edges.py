"""The types of inputs and outputs, which may be narrower than float32 where the graph computes in 16 bits."""

from __future__ import annotations

from typing import Any

from convkit.errors import ConversionError, SettingError
from convkit.model import ModelSpec, Precision, TensorSpec, find_precision

__all__ = ["changed_edges", "check_edges_fit", "engine_edges", "narrow_edges", "read_edges", "refuse_for_engines"]

EDGES = ("fp32", "fp16", "bf16")
"""The precisions of inputs and outputs."""
_GRAPHS = {"fp16": ("fp16", "int8", "auto"), "bf16": ("bf16",)}
"""The precisions of graphs that can have them."""


def read_edges(value: Any) -> str:
    """Return the precision of inputs and outputs that a setting names.

    Raises:
        ValueError: there is none; its text is what to do.
    """
    if value not in EDGES:
        raise ValueError(f"Give {' or '.join(EDGES)}: the other types of inputs and outputs are the model's own.")
    return str(value)


def check_edges_fit(edges: str, precision: str, what: str) -> None:
    """Refuse inputs and outputs that are narrower than the graph, or of another type.

    Raises:
        SettingError: ``edges`` do not go with ``precision``, that of ``what``, as a text names it.
    """
    known = _GRAPHS.get(edges, EDGES)
    if edges != "fp32" and precision not in known:
        raise SettingError(
            f"io_precision {edges} is for {what} in {' or '.join(known)}, and this is in {precision}.",
            hint=f"Add --precision {edges}, or leave --io-precision out.",
        )


def refuse_for_engines(edges: str) -> None:
    """Refuse inputs and outputs that convkit cannot give to an engine.

    Raises:
        SettingError: they are bfloat16.
    """
    if edges == "bf16":
        raise SettingError(
            "convkit cannot run engines of TensorRT whose inputs and outputs are bfloat16: NumPy and cupy have none.",
            hint="Convert and build without --io-precision: an engine in bf16 rounds its inputs itself.",
        )


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
        SettingError: there is no such precision, the engine does not compute in it or cannot be given it, or the
            artifact has a narrower one.
        ConversionError: no input or output can have it.
    """
    if any(tensor.dtype == "bfloat16" for tensor in _edges(spec)):
        refuse_for_engines("bf16")
    if asked is None:
        return spec
    try:
        refuse_for_engines(read_edges(asked))
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
    check_edges_fit(asked, kind.name, "engines")
    return spec if narrow else narrow_edges(spec, asked)


def _edges(spec: ModelSpec) -> tuple[TensorSpec, ...]:
    return (*spec.inputs, *spec.outputs)
