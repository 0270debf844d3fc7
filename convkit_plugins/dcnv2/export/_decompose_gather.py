"""The rewrite ``dcnv2.decompose-gather``: a DeformConv becomes a gather of corners and one Conv."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convkit import NodeRewrite, NoMatch
from convkit_plugins.dcnv2.export._deform_graph import DeformGraph
from convkit_plugins.dcnv2.export._deform_node import DeformNode, read_deform_conv

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["DecomposeGather"]

_CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)


class DecomposeGather(NodeRewrite):
    """Replace DeformConv by standard operators: four corners a sample by GatherND, then a Conv.

    Positions and interpolation are float32, whatever the precision of the features. Positions
    are limited to one pixel around the image, where the features are padded with zeros: the
    samples stay the same and each index is valid.
    """

    name = "dcnv2.decompose-gather"
    reason = "the engine has no DeformConv, and not every engine samples a grid as ONNX defines it"
    phase = "target"
    op_types = ("DeformConv",)

    def match(self, graph: gs.Graph, node: gs.Node) -> DeformNode | NoMatch | None:
        """Match a float32, float16 or bfloat16 DeformConv whose weight has a fixed shape."""
        return read_deform_conv(node)

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: DeformNode) -> None:
        """Put the larger graph in the place of the node."""
        nodes = DeformGraph(graph, node, match)
        # What is not above -1 is outside, NaN as well: it must not become an index.
        positions, outside = nodes.positions(corner_axis=True), np.float32(-1)
        inside = nodes.add("Greater", "inside", positions, outside)
        positions = nodes.add("Where", "positions.from", inside, positions, outside)
        positions = nodes.add("Min", "positions.limited", positions, nodes.input_size)
        lowest = nodes.add("Floor", "lowest", positions)

        # Along each axis, the share of a corner is the distance to the opposite one.
        distance = nodes.add("Sub", "fraction", positions, lowest)
        distance = nodes.add("Abs", "shares.yx", nodes.add("Sub", "fraction.corners", distance, 1 - _CORNERS))
        shares = nodes.add("ReduceProd", "shares", distance, np.array([4]), keepdims=1)
        if match.mask is not None:
            mask = nodes.wide(nodes.grouped(match.mask, "mask", match.taps, -1, 1, 1), "mask.float32")
            shares = nodes.add("Mul", "shares.masked", shares, mask)

        # One row or column of zeros before the image; behind it a second for the corner of share 0.
        border = [np.array([1, 1, 2, 2]), np.array(0, match.dtype), np.array([2, 3])]
        features = nodes.grouped_features(nodes.add("Pad", "padded", match.x, *border))
        features = nodes.add("Transpose", "features.channels_last", features, perm=[0, 2, 3, 1])
        index = nodes.add("Add", "corners", lowest, _CORNERS + 1)
        index = nodes.add("Cast", "corners.int64", index, to=np.int64)
        corners = nodes.wide(nodes.add("GatherND", "gathered", features, index, batch_dims=1), "gathered.float32")

        samples = nodes.add("Mul", "weighted", corners, shares)
        samples = nodes.add("ReduceSum", "samples", samples, np.array([3]), keepdims=0)
        nodes.convolve(nodes.add("Transpose", "columns", samples, perm=[0, 3, 1, 2]))
