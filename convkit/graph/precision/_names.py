"""Names in a graph: of nodes that somebody gave, and such that nothing has yet."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from convkit.errors import SettingError, listing, suggest

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["FreeNames", "check_names"]


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
            hint=f"{suggest(unknown[0], known)} `convkit bisect ARTIFACT` lists names.",
        )


class FreeNames:
    """Names for new tensors that no tensor of a graph has."""

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = set(graph.tensors())

    def take(self, name: str) -> str:
        """Return ``name``, with a number if there is a tensor of that name."""
        candidate, number = name, 2
        while candidate in self._taken:
            candidate, number = f"{name}.{number}", number + 1
        self._taken.add(candidate)
        return candidate
