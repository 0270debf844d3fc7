"""The rewrite ``graph.to-int8``: QuantizeLinear and DequantizeLinear around what engines compute in int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from convkit.errors import RewriteError
from convkit.graph._metadata import INT8_KEY, annotate
from convkit.graph._rewrite import Phase, Rewrite
from convkit.graph.precision._int8_policy import Int8Plan, plan_int8, weight_axis
from convkit.graph.precision._names import FreeNames, check_names
from convkit.model import Precision, find_precision

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

__all__ = ["ToInt8", "round_scale"]

_MOST = 127
"""The range is symmetric: -128 is not used."""


class ToInt8(Rewrite):
    """Quantise activations and weights of convolutions and matrix products; the graph stays float32 around them.

    Everything is symmetric: zero points are 0, and a scale is the largest magnitude divided by 127. Weights have a
    scale for each output channel and are stored as int8; activations have one scale, from ``thresholds``: the largest
    magnitude to represent, by name of the tensor. Scales are numbers of the type ``low``, which the graph gets around
    them. A tensor is quantised once, and dequantised for each reader by itself; readers that are not int8 get it as it
    was.

    These nodes with weights are left alone, each with its reason in its metadata (`INT8_KEY`) and among the near
    misses:

    * the first layer, and the last before an output;
    * what decides, what leads to a decision back to the operator with weights, and what follows from one;
    * the convolutions that say where a DeformConv, GridSample or RoiAlign samples;
    * operators that no engine has in int8, among them DeformConv, and nodes whose weights are computed;
    * the nodes whose names are in ``exclude``.
    """

    name: ClassVar[str] = "graph.to-int8"
    reason: ClassVar[str] = "engines multiply int8 at twice the speed of 16 bits"
    phase: ClassVar[Phase] = "precision"

    def __init__(self, thresholds: Mapping[str, float], low: str = "fp32", exclude: Collection[str] = ()) -> None:
        self.thresholds, self.low, self.exclude = thresholds, find_precision(low, floating=True), frozenset(exclude)

    def apply(self, graph: gs.Graph, near_misses: list[str]) -> int:
        """Insert the nodes, and count the nodes that became int8.

        Raises:
            SettingError: the graph has no node with one of the names in ``exclude``.
            RewriteError: there is no threshold for a tensor.
        """
        check_names(self.exclude, graph, "to exclude from int8")
        plan = plan_int8(graph, self.exclude)
        for node, reason in plan.excluded:
            near_misses.append(f"{node.name}: {reason}")
            annotate(node, INT8_KEY, reason)
        if plan.nodes:
            _Insertion(graph, plan, self.thresholds, self.low).make()
        return len(plan.nodes)


class _Insertion:
    def __init__(self, graph: gs.Graph, plan: Int8Plan, thresholds: Mapping[str, float], low: Precision) -> None:
        import onnx_graphsurgeon as gs

        self.graph, self.plan, self.thresholds, self.low = graph, plan, thresholds, low
        self.names = FreeNames(graph)
        self.zero = gs.Constant(self.names.take("int8.zero"), np.array(0, np.int8))

    def make(self) -> None:
        """Change the graph."""
        shared = {name: self._largest(group) for group in self.plan.groups for name in group}
        for name, readers in self.plan.points.items():
            self._activation(name, readers, shared.get(name) or self._largest([name]))
        for node in self.plan.nodes:
            self._weights(node)

    def _largest(self, names: Collection[str]) -> float:
        missing = [name for name in names if name not in self.thresholds]
        if missing:
            raise RewriteError(
                f"The tensor {missing[0]!r} is to be quantised, and nothing is known of its values.",
                hint="Calibrate all tensors that plan_int8 names: convkit.graph.precision.quantize does.",
            )
        return max(self.thresholds[name] for name in names)

    def _activation(self, name: str, readers: list[tuple[gs.Node, int]], largest: float) -> None:
        import onnx_graphsurgeon as gs

        first, place = readers[0]
        tensor = first.inputs[place]
        scale = gs.Constant(self.names.take(f"{name}.scale"), _scales(np.array(largest), self.low))
        whole = gs.Variable(self.names.take(f"{name}.int8"), np.int8, tensor.shape)
        self._append("QuantizeLinear", [tensor, scale, self.zero], whole, {})
        for node, position in readers:
            back = gs.Variable(self.names.take(f"{name}.dequantized"), np.float32, tensor.shape)
            self._append("DequantizeLinear", [whole, scale, self.zero], back, {})
            node.inputs[position] = back

    def _weights(self, node: gs.Node) -> None:
        import onnx_graphsurgeon as gs

        constant, axis = node.inputs[1], weight_axis(node)
        values = np.asarray(constant.values)
        others = tuple(place for place in range(values.ndim) if place != axis)
        scales = _scales(np.abs(values).max(axis=others), self.low)
        along = np.expand_dims(scales.astype(np.float64), others)
        whole = np.clip(np.rint(values / along), -_MOST, _MOST).astype(np.int8)
        name = constant.name
        back = gs.Variable(self.names.take(f"{name}.dequantized"), np.float32, list(values.shape))
        inputs = [
            gs.Constant(self.names.take(f"{name}.int8"), whole),
            gs.Constant(self.names.take(f"{name}.scale"), scales),
            gs.Constant(self.names.take(f"{name}.zero"), np.zeros(scales.shape, np.int8)),
        ]
        self._append("DequantizeLinear", inputs, back, {"axis": axis})
        node.inputs[1] = back

    def _append(self, op: str, inputs: list[gs.Tensor], result: gs.Tensor, attributes: dict[str, Any]) -> None:
        import onnx_graphsurgeon as gs

        self.graph.nodes.append(gs.Node(op, f"{result.name}/{op}", attributes, inputs, [result]))


def _scales(largest: np.ndarray, low: Precision) -> np.ndarray:
    """Return float32 scales for magnitudes; where all values are 0 any scale will do, and it is 1."""
    return round_scale(np.where(largest > 0, largest / _MOST, 1.0), low)


def round_scale(scales: np.ndarray, low: Precision) -> np.ndarray:
    """Return float32 scales that ``low`` can represent, none smaller than the given ones, so that nothing is clipped.

    One that is too large for the type is returned as it is.
    """
    import ml_dtypes

    exact = np.asarray(scales, np.float64)
    dtype = np.dtype(ml_dtypes.bfloat16 if low.dtype == "bfloat16" else low.dtype)
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(dtype)
        larger = np.nextafter(rounded, np.array(np.inf, dtype)).astype(np.float64)
    found = np.where(rounded.astype(np.float64) < exact, larger, rounded.astype(np.float64))
    return np.where(np.isfinite(found), found, exact).astype(np.float32)
