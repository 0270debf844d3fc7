"""Names of nodes that somebody gave, looked up in a graph."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from convkit.errors import SettingError, listing, suggest

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["check_names"]


def check_names(names: Collection[str], graph: gs.Graph, purpose: str) -> None:
    """Do nothing if the graph has a node of each name.

    Raises:
        SettingError: it has none of some names; those that are close are in the hint.
    """
    known = [node.name for node in graph.nodes if node.name]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise SettingError(
            f"The graph has no node {listing(map(repr, unknown))} {purpose}.",
            hint=f"{suggest(unknown[0], known)} `convkit bisect ARTIFACT` lists names.".strip(),
        )
