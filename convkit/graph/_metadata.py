"""What convkit writes into a graph for those who read it later: names of metadata, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["MODULE_KEY", "REWRITES_KEY", "module_of"]

MODULE_KEY = "convkit.module"
"""Metadata of a node: the path of the module that it was exported from."""
REWRITES_KEY = "convkit.rewrites"
"""Metadata of a model: a JSON list with the name of each rewrite and the nodes that it removed, added and changed."""


def module_of(node: onnx.NodeProto) -> str:
    """Return the path of the module that the node was exported from, or an empty string."""
    return next((entry.value for entry in node.metadata_props if entry.key == MODULE_KEY), "")
