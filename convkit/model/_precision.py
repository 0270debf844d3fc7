"""The precisions that a graph can have, and how they round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from convkit.errors import SettingError, suggest

__all__ = ["PRECISIONS", "Precision", "find_precision"]


@dataclass(frozen=True)
class Precision:
    """A floating type for weights and activations.

    ``dtype`` is its name in NumPy and PyTorch; ``ulp`` is the distance from 1 to the next number that it can represent.
    """

    name: str
    dtype: str
    ulp: float


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("fp32", "float32", 2.0**-23),
        Precision("fp16", "float16", 2.0**-10),
        Precision("bf16", "bfloat16", 2.0**-7),
    )
}
_LATER = {
    "int8": "int8 needs a calibrated graph: quantise the ONNX file (symmetric, QDQ) and give it to `convkit check`.",
    "fp8": "fp8 needs a calibrated graph, which this convkit does not make.",
}


def find_precision(value: Any) -> Precision:
    """Return the precision of that name.

    Raises:
        SettingError: there is none, or this convkit does not convert to it.
    """
    if value in PRECISIONS:
        return PRECISIONS[value]
    hint = _LATER.get(str(value), suggest(str(value), PRECISIONS))
    raise SettingError(
        f"precision cannot be {value!r}.", hint=f"{hint} This convkit offers {', '.join(PRECISIONS)}.".strip()
    )
