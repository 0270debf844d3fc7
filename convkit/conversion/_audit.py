"""The audit: the types of a graph, read back from it, against the precision that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from convkit.errors import ConversionError
from convkit.inspection import GraphPrecision
from convkit.model import PRECISIONS, Precision

__all__ = ["audit"]

LEAST_SHARE = 0.5
"""The share of the arithmetic that has to be in the types that were asked for."""
LEAST_INT8 = 0.1
"""The share of the arithmetic that has to be int8 in an int8 graph; the rest is 16-bit."""


def audit(types: GraphPrecision, precision: Precision, misses: Sequence[str], *, auto: bool = False) -> None:
    """Refuse a graph that was to have a precision and stayed float32 for the greater part.

    ``misses`` say why nodes did. With ``auto``, which keeps as much as results need, any share of it will do.

    Raises:
        ConversionError: too little of the arithmetic has the types that were asked for, or none.
    """
    wanted = [precision.dtype, *([PRECISIONS[precision.rest].dtype] if precision.rest else [])]
    share, least = types.share(wanted), 0.0 if auto else LEAST_SHARE
    measure = "arithmetic" if types.arithmetic else "nodes"
    if precision.rest and share >= least and types.share([precision.dtype]) < LEAST_INT8:
        raise ConversionError(
            f"{precision.name} was asked for, and {types.share([precision.dtype]):.0%} of the {measure} is"
            f" {precision.name}{_common(misses)}.",
            hint=f"Use --precision {precision.rest}, or keep fewer nodes (--keep-fp32).",
        )
    if share and share >= least:
        return
    raise ConversionError(
        f"{precision.name} was asked for, and {1 - share:.0%} of the {measure} stayed float32{_common(misses)}.",
        hint="Keep fewer nodes (--keep-fp32), try --precision bf16 where values leave the range, or use fp32.",
    )


def _common(misses: Sequence[str]) -> str:
    """Return the most frequent reasons, each with the number of its nodes."""
    reasons: dict[str, int] = {}
    for miss in misses:
        reason = miss.partition(": ")[2]
        reasons[reason] = reasons.get(reason, 0) + 1
    listed = "; ".join(
        f"{reason} ({count} nodes)" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1])[:3]
    )
    return f": {listed}" if listed else ""
