"""The rewrite ``dcnv2.decompose-grid-sample``: a DeformConv becomes one GridSample and one Conv."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from convkit import NodeRewrite, NoMatch
from convkit_plugins.dcnv2.export._deform_graph import DeformGraph
from convkit_plugins.dcnv2.export._deform_node import DeformNode, read_deform_conv

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["DecomposeGridSample"]


class DecomposeGridSample(NodeRewrite):
    """Replace DeformConv by standard operators: one GridSample over all kernel elements, then a Conv.

    Positions and interpolation are float32, whatever the precision of the features. GridSample
    takes positions as fractions of the image, so they are rounded to about 1e-7 of its size.
    What an offset that is no number gives depends on the engine (`DecomposeGather` counts it as outside).
    """

    name = "dcnv2.decompose-grid-sample"
    reason = "the engine has no DeformConv; GridSample interpolates as it does"
    phase = "target"
    op_types = ("DeformConv",)

    def match(self, graph: gs.Graph, node: gs.Node) -> DeformNode | NoMatch | None:
        """Match a float32, float16 or bfloat16 DeformConv whose weight has a fixed shape."""
        return read_deform_conv(node)

    def rewrite(self, graph: gs.Graph, node: gs.Node, match: DeformNode) -> None:
        """Put the smaller graph in the place of the node."""
        nodes = DeformGraph(graph, node, match)
        features = nodes.grouped_features(nodes.wide(match.x, "x.float32"))
        # No ``mode``: its default is bilinear in every opset, while the name of it changed with opset 20
        # and parsers that know only the old one sample the nearest pixel instead.
        samples = nodes.add("GridSample", "samples", features, _grid(nodes), align_corners=0, padding_mode="zeros")
        if match.mask is not None:
            mask = nodes.wide(nodes.grouped(match.mask, "mask", 1, match.taps, -1), "mask.float32")
            samples = nodes.add("Mul", "columns", samples, mask)
        nodes.convolve(samples)


def _grid(nodes: DeformGraph) -> gs.Tensor:
    """Return the positions [N * G, K, P, 2] as GridSample wants them: (x, y), the image from -1 to 1."""
    positions, size, half = nodes.positions(shift=0.5), nodes.input_size, np.float32(0.5)
    half_size = size * half if isinstance(size, np.ndarray) else nodes.add("Mul", "size.half", size, half)
    grid = nodes.add("Sub", "grid.yx", nodes.add("Div", "grid.scaled", positions, half_size), np.float32(1))
    # From -2 and 2 on everything is outside; without the limits an infinite offset would make NaN.
    grid = nodes.add("Clip", "grid.limited", grid, np.float32(-2), np.float32(2))
    return nodes.add("Gather", "grid", grid, np.array([1, 0]), axis=3)
