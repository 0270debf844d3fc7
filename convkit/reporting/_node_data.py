"""Errors of nodes for Model Explorer, which lays them over its own picture of the graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["node_data"]

NOT_FINITE = 3.4e38
"""Stands for an error that is not finite, for which JSON has no number."""
_LEAST, _MOST = (255, 244, 214), (200, 30, 30)
_OVER = "#7a0014"


def node_data(errors: Mapping[str, Any]) -> dict[str, Any]:
    """Return what each node errs by itself (relative, in the Euclidean norm) as node data of Model Explorer.

    ``errors`` is the document of `convkit.bisection.Bisection.to_json`. The keys are names of nodes, by which Model
    Explorer's adapter for ONNX knows them. Colours go with the logarithm, for the errors of a network cover many powers
    of ten; nodes above what their type explains are darkest, with white letters.
    """
    worst: dict[str, tuple[float, bool]] = {}
    for row in errors["nodes"]:
        figures = row["local"][-1]
        if figures is None or not row["node"]:
            continue
        value = NOT_FINITE if figures["rel_l2"] is None else float(figures["rel_l2"])
        if row["node"] not in worst or value > worst[row["node"]][0]:
            worst[row["node"]] = value, bool(row["parted"])
    shades = _Shades([value for value, _ in worst.values()])
    return {
        "results": {
            name: {
                "value": value,
                "bgColor": _OVER if parted else shades.colour(value),
                **({"textColor": "#ffffff"} if parted else {}),
            }
            for name, (value, parted) in worst.items()
        }
    }


class _Shades:
    """Colours between the least and the largest of some errors."""

    def __init__(self, values: Sequence[float]) -> None:
        logs = [math.log10(value) for value in values if 0 < value < NOT_FINITE]
        self._low, self._high = (min(logs), max(logs)) if logs else (0.0, 0.0)

    def colour(self, value: float) -> str:
        """Return the colour of an error."""
        span = self._high - self._low
        share = (math.log10(value) - self._low) / span if value > 0 and span else 0.0
        parts = (round(a + (b - a) * min(max(share, 0.0), 1.0)) for a, b in zip(_LEAST, _MOST, strict=True))
        return "#" + "".join(f"{part:02x}" for part in parts)
