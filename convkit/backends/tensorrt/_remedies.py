"""What to do about refusals whose cause is known: types that a compute capability lacks, and kinds of quantisation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["remedy"]

_BUILDER = (
    (r"HW-specific datatypes:.*\bb(f?)16\b", "bfloat16 needs compute capability 8.0: use fp16"),
    (r"FP32 GEMM is not supported", "products of float32 matrices need compute capability 8.0: use fp16"),
    (r"HW-specific datatypes:.*fp8", "float8 needs compute capability 8.9: use another type"),
    (r"HW-specific datatypes:.*int4", "int4 needs compute capability 8.0: use another type"),
)
_PARSER = (
    (
        r"[Nn]on-zero zero point",
        "Quantise symmetrically, with zero points of 0: onnxruntime.quantization does so with ActivationSymmetric and"
        " WeightSymmetric.",
    ),
    (r"ConvInteger|QLinear\w+", "Quantise in the QDQ form (QuantizeLinear and DequantizeLinear around float nodes)."),
)


def remedy(reasons: Iterable[str], failed: Sequence[str] = (), others: Sequence[str] = ()) -> str:
    """Return what helps against one of these reasons, or an empty string.

    ``failed`` are the targets that cannot be built for, ``others`` those that can.
    """
    text = "\n".join(reasons)
    for pattern, advice in _PARSER:
        if re.search(pattern, text):
            return advice
    for pattern, advice in _BUILDER:
        if re.search(pattern, text):
            left = f", or leave {', '.join(failed)} out (--target {','.join(others)})" if others else ""
            return f"{advice}{left}."
    return ""
