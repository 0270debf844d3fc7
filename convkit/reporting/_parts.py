"""What a report shows besides manifest and verdict, and what it needs of a graph for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convkit.graph import PRECISION_KEY, metadata_of, module_of

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["ReportParts", "layers_of"]


@dataclass(frozen=True)
class ReportParts:
    """What a report shows where it is known.

    ``pictures`` are rows of captions with BGR images, shown side by side. ``layers`` are those of `layers_of`,
    ``judged`` names the runner whose errors they have, ``precision`` is the document of
    `convkit.inspection.GraphPrecision.to_json`. ``graphs`` are excerpts by `excerpt`, each with the name of its
    ``rewrite``. ``bench`` is the document of `convkit bench --json` with the results of this artifact. ``sizes`` are
    bytes by file, ``engines`` the ladders of engines by name.
    """

    pictures: Sequence[Sequence[tuple[str, np.ndarray]]] = ()
    layers: Sequence[Mapping[str, Any]] = ()
    judged: str = ""
    precision: Mapping[str, Any] = field(default_factory=dict)
    graphs: Sequence[Mapping[str, Any]] = ()
    bench: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def layers_of(
    model: onnx.ModelProto, kinds: Mapping[str, str], errors: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the nodes of a graph in its order with their types, and what they err where that was measured.

    ``kinds`` are types by node, as `convkit.inspection.GraphPrecision` has them; nodes without one are left out.
    ``errors`` is the document of `convkit.bisection.Bisection.to_json`, whose types go over those of ``kinds``. A node
    has ``node``, ``operator``, ``module``, ``dtype`` and ``reason`` (why it stayed float32); where it was measured also
    ``local``, ``accumulated`` and ``limit``, relative errors, None for one that is not finite.
    """
    measured: dict[str, dict[str, Any]] = {}
    for row in errors["nodes"] if errors else ():
        local, accumulated = row["local"][-1], row["accumulated"][-1]
        if local is None or accumulated is None:
            continue
        found = {
            "local": local["rel_l2"],
            "accumulated": accumulated["rel_l2"],
            "limit": row["limit"],
            "dtype": row["dtype"],
        }
        if row["node"] not in measured or _rank(found) > _rank(measured[row["node"]]):
            measured[row["node"]] = found
    return [
        {
            "node": node.name,
            "operator": node.op_type,
            "module": module_of(node),
            "dtype": kinds.get(node.name, ""),
            "reason": metadata_of(node, PRECISION_KEY),
            **measured.get(node.name, {}),
        }
        for node in model.graph.node
        if node.name in kinds or node.name in measured
    ]


def _rank(found: Mapping[str, Any]) -> float:
    return float("inf") if found["local"] is None else float(found["local"])
