"""From a float32 graph and samples to an int8 one: what is calibrated, and in which order a graph is typed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convkit.errors import ConversionError, SettingError, listing
from convkit.graph._rewrite import RewriteRecord, apply_rewrite, quiet
from convkit.graph.precision._int8_policy import plan_int8
from convkit.graph.precision._names import check_names
from convkit.graph.precision._observe import Feed, Open, float32_tensors, observe, range_of
from convkit.graph.precision._thresholds import Histogram, find_method
from convkit.graph.precision._to_16_bit import To16Bit
from convkit.graph.precision._to_int8 import ToInt8
from convkit.graph.precision._types import model_types
from convkit.graph.precision._unfit import Range
from convkit.model import find_precision

if TYPE_CHECKING:
    import onnx

__all__ = ["Calibration", "calibrate", "quantize"]

_QUANTISED = ("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QuantizeLinear")


@dataclass(frozen=True)
class Calibration:
    """What samples say of the values in a graph.

    ``thresholds`` has the largest magnitude that int8 has to represent, by tensor that is to be quantised; ``ranges``
    has the range of each float32 tensor; ``count`` is how many samples there were.
    """

    method: str
    count: int
    thresholds: Mapping[str, float]
    ranges: Mapping[str, Range]


def quantize(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    *,
    method: str = "percentile",
    low: str = "fp16",
    exclude: Collection[str] = (),
    keep: Collection[str] = (),
    open_graph: Open | None = None,
) -> tuple[onnx.ModelProto, list[RewriteRecord]]:
    """Return a float32 model with int8 where engines have it and ``low`` elsewhere, and what was changed.

    ``method`` is how much of the values int8 represents: ``minmax``, ``entropy`` or ``percentile``. The nodes named in
    ``exclude`` do not become int8, those in ``keep`` stay float32 altogether. ``feeds`` are read once, one at a time.

    Raises:
        SettingError: an unknown method, precision or name, or the model is 16-bit or quantised already.
        InputError: there are no samples.
        ConversionError: values overflow on a sample, or nothing is left to quantise.
        EnvironmentProblem: the graph cannot be run here.
    """
    find_precision(low, floating=True)
    excluded = {*exclude, *keep}
    found = calibrate(model, feeds, method=method, exclude=excluded, open_graph=open_graph)
    result, record = apply_rewrite(model, ToInt8(found.thresholds, low, excluded))
    records = [record]
    if low != "fp32":
        result, record = apply_rewrite(result, To16Bit(low, keep, found.ranges))
        records.append(record)
    return result, records


def calibrate(
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    *,
    method: str = "percentile",
    exclude: Collection[str] = (),
    open_graph: Open | None = None,
) -> Calibration:
    """Return what samples say of the values in a float32 graph that is to be quantised.

    Raises:
        SettingError: an unknown method or name, or the model is 16-bit or quantised already.
        InputError: there are no samples.
        ConversionError: values overflow on a sample, or nothing is left to quantise.
        EnvironmentProblem: the graph cannot be run here.
    """
    import onnx_graphsurgeon as gs

    find_method(method)
    _require_float32(model)
    with quiet():
        graph = gs.import_onnx(model)
    check_names(exclude, graph, "to exclude from int8")
    plan = plan_int8(graph, exclude)
    if not plan.nodes:
        reasons = listing(f"{node.name} ({reason})" for node, reason in plan.excluded)
        raise ConversionError(
            "Nothing of the model can become int8" + (f": {reasons}." if reasons else ": it has no convolution."),
            hint="Convert with --precision fp16.",
        )
    names = sorted({*plan.points, *(name for group in plan.groups for name in group)})
    histograms = {name: Histogram() for name in names}
    ranges: dict[str, Range] = {}
    count = 0
    for number, values in observe(model, dict.fromkeys([*float32_tensors(model), *names]), feeds, open_graph):
        count = number + 1
        for name, value in values.items():
            if name in histograms:
                _add(histograms[name], name, value, number)
            new = range_of(value)
            ranges[name] = ranges[name].joined(new) if name in ranges else new
    thresholds = {name: histogram.threshold(method) for name, histogram in histograms.items()}
    return Calibration(method, count, thresholds, ranges)


def _add(histogram: Histogram, name: str, value: object, number: int) -> None:
    import numpy as np

    histogram.add(np.asarray(value))
    if not histogram.finite:
        raise ConversionError(
            f"The tensor {name!r} has infinite values on sample {number}: it cannot be quantised.",
            hint="The network overflows on this input: look at the sample, or exclude the node that reads the tensor.",
        )


def _require_float32(model: onnx.ModelProto) -> None:
    """Do nothing for a float32 model.

    Raises:
        SettingError: it is quantised or 16-bit.
    """
    from onnx import TensorProto

    found = [node for node in model.graph.node if node.op_type in _QUANTISED or node.op_type.startswith("QLinear")]
    if found:
        raise SettingError(
            f"The model is quantised already: it has {found[0].op_type} {found[0].name!r}.",
            hint="Give the float32 model, or convert this one with --precision fp32, which keeps its types.",
        )
    narrow = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    name = next((name for name, number in model_types(model).items() if number in narrow), None)
    if name is not None:
        raise SettingError(
            f"The model is 16-bit already: {name!r} is.", hint="int8 is made of the float32 model: give that one."
        )
