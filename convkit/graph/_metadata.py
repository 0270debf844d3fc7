"""What convkit writes into a graph for those who read it later: names of metadata, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

__all__ = [
    "INT8_KEY",
    "MODULE_KEY",
    "PRECISION_KEY",
    "REWRITES_KEY",
    "added_metadata",
    "annotate",
    "metadata_of",
    "module_of",
]

INT8_KEY = "convkit.int8"
"""Metadata of a node with weights that is not int8 in a quantised graph: why."""
MODULE_KEY = "convkit.module"
"""Metadata of a node: the path of the module that it was exported from."""
PRECISION_KEY = "convkit.precision"
"""Metadata of a node that is float32 in a 16-bit graph: why."""
REWRITES_KEY = "convkit.rewrites"
"""Metadata of a model: a JSON list with the name of each rewrite and the nodes that it removed, added and changed."""


def module_of(node: onnx.NodeProto) -> str:
    """Return the path of the module that the node was exported from, or an empty string."""
    return metadata_of(node, MODULE_KEY)


def metadata_of(node: onnx.NodeProto, key: str) -> str:
    """Return what the metadata of a node has under a key, or an empty string."""
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def annotate(node: gs.Node, key: str, text: str) -> None:
    """Give a node an entry of metadata, which `apply_rewrite` writes into the model."""
    node.convkit_metadata = {**added_metadata(node), key: text}


def added_metadata(node: gs.Node) -> Mapping[str, str]:
    """Return what `annotate` gave a node."""
    return getattr(node, "convkit_metadata", {})
