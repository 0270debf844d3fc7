"""The layers of a graph measured: what PyTorch gives in each of them, in float64 and in the graph's precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convkit.backends.torch import session_in
from convkit.errors import ConvkitError
from convkit.graph.precision import outputs_of
from convkit.model import PRECISIONS, Precision
from convkit.proof import Layers, Runs, Visit

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["measure_layers"]


def measure_layers(
    model: onnx.ModelProto, feed: Mapping[str, np.ndarray], precision: Precision, yardstick: Path | None = None
) -> tuple[Layers | None, str]:
    """Return what PyTorch gives in each layer of a float32 graph on one sample, with an empty text.

    ``yardstick`` is the graph that costs PyTorch what the precision costs, by default ``model``. Without an operator of
    the graph in the backend ``torch`` there are none, and the text says why.
    """
    dtype = PRECISIONS[precision.rest or precision.name].dtype
    try:
        return Layers.measure(model, feed, _runs("float64"), _runs(dtype, yardstick), precision.name), ""
    except ConvkitError as error:
        return None, f"the layers were not compared: {error.message}"


def _runs(dtype: str, graph: Path | None = None) -> Runs:
    """Return what runs graphs by PyTorch with a dtype in place of float32; ``graph`` in place of those given."""

    def opened(model: onnx.ModelProto) -> Visit:
        import onnx

        if graph is None:
            return session_in(model, dtype).visit
        with outputs_of(onnx.load(str(graph)), [value.name for value in model.graph.output]) as asked:
            return session_in(asked, dtype).visit

    return opened
