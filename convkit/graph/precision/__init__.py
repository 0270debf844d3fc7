"""Precision: rewrites of phase *precision*, which give a graph the types that an engine computes in."""

from convkit.graph.precision._fake_quantize import FAKE_QUANTIZE, fake_quantised
from convkit.graph.precision._keep_file import keep_file_text, read_keep_file, write_keep_file
from convkit.graph.precision._local_errors import SQNR_LIMIT, LocalError, local_errors, require_local
from convkit.graph.precision._narrow_edges import NarrowEdges
from convkit.graph.precision._observe import Open, outputs_of, ranges
from convkit.graph.precision._quantize import Calibration, calibrate, quantize
from convkit.graph.precision._search import Accept, Search, Trial, search
from convkit.graph.precision._thresholds import METHODS, find_method
from convkit.graph.precision._to_16_bit import To16Bit
from convkit.graph.precision._to_int8 import ToInt8
from convkit.graph.precision._types import model_types
from convkit.graph.precision._unfit import Range
from convkit.graph.precision._widen import NARROW, widened_model

__all__ = [
    "FAKE_QUANTIZE",
    "METHODS",
    "NARROW",
    "SQNR_LIMIT",
    "Accept",
    "Calibration",
    "LocalError",
    "NarrowEdges",
    "Open",
    "Range",
    "Search",
    "To16Bit",
    "ToInt8",
    "Trial",
    "calibrate",
    "fake_quantised",
    "find_method",
    "keep_file_text",
    "local_errors",
    "model_types",
    "outputs_of",
    "quantize",
    "ranges",
    "read_keep_file",
    "require_local",
    "search",
    "widened_model",
    "write_keep_file",
]
