"""The precisions that a graph can have, and how they round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convkit.errors import SettingError, suggest

__all__ = ["PRECISIONS", "Precision", "find_precision"]


@dataclass(frozen=True)
class Precision:
    """A type for weights and activations.

    ``dtype`` is its name in NumPy and PyTorch; ``ulp`` is the distance from 1 to the next number that the outputs can
    have. ``rest`` is the precision of what is not int8 in an int8 graph, which its outputs have, too.
    """

    name: str
    dtype: str
    ulp: float
    rest: str = ""


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "float32", 2.0**-23),
        Precision("fp16", "float16", 2.0**-10),
        Precision("bf16", "bfloat16", 2.0**-7),
        Precision("int8", "int8", 2.0**-10, "fp16"),
    )
}
_LATER = {"fp8": "fp8 needs a calibrated graph, which this convkit does not make."}


def find_precision(value: Any, *, floating: bool = False) -> Precision:
    """Return the precision of that name, with ``floating`` only one of a floating type.

    Raises:
        SettingError: there is none, or this convkit does not convert to it.
    """
    known = {name: each for name, each in PRECISIONS.items() if not (floating and each.rest)}
    if value in known:
        return known[value]
    hint = _LATER.get(str(value), suggest(str(value), known))
    raise SettingError(f"precision cannot be {value!r}.", hint=f"{hint} This convkit offers {', '.join(known)}.")
