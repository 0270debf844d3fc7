"""The yardstick of int8: a float32 graph whose tensors are rounded to int8 steps where its int8 graph quantises."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from convkit.graph._rewrite import quiet
from convkit.graph.precision._int8_policy import plan_int8, weight_axis
from convkit.graph.precision._names import FreeNames

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

__all__ = ["FAKE_QUANTIZE", "fake_quantised"]

FAKE_QUANTIZE = ("convkit", "FakeQuantize")
"""Domain and name of the operator, which the backend ``torch`` alone knows: PyTorch's own fake quantisation."""


def fake_quantised(
    model: onnx.ModelProto, thresholds: Mapping[str, float], exclude: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a float32 graph with a fake quantisation wherever `ToInt8` would quantise; the types stay float32.

    ``thresholds`` are the largest magnitudes to represent, by name of the tensor. The operator rounds its input to
    multiples of ``scales``, within 127 of them; with an ``axis``, each channel has its own scale.
    """
    import onnx_graphsurgeon as gs

    with quiet():
        graph = gs.import_onnx(model)
    plan, names = plan_int8(graph, exclude), FreeNames(graph)
    shared = {name: max(thresholds[each] for each in group) for group in plan.groups for name in group}
    for name, readers in plan.points.items():
        node, place = readers[0]
        largest = shared.get(name, thresholds[name])
        rounded = _rounded(graph, names, node.inputs[place], [largest])
        for reader, position in readers:
            reader.inputs[position] = rounded
    for node in plan.nodes:
        axis, values = weight_axis(node), np.asarray(node.inputs[1].values, np.float64)
        along = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        node.inputs[1] = _rounded(graph, names, node.inputs[1], list(np.abs(along).max(1)), axis)
    graph.toposort()
    result: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    result.opset_import.add(domain=FAKE_QUANTIZE[0], version=1)
    return result


def _rounded(
    graph: gs.Graph, names: FreeNames, tensor: gs.Tensor, largest: list[float], axis: int | None = None
) -> gs.Tensor:
    import onnx_graphsurgeon as gs

    domain, kind = FAKE_QUANTIZE
    result = gs.Variable(names.take(f"{tensor.name}.rounded"), np.float32, tensor.shape)
    scales = [float(value) / 127 if value else 1.0 for value in largest]
    attributes = {"scales": scales, **({"axis": axis} if axis is not None else {})}
    graph.nodes.append(gs.Node(kind, f"{result.name}/{kind}", attributes, [tensor], [result], domain=domain))
    return result
