"""What an ONNX model computes: by ONNX Runtime, or by the reference evaluator of ONNX where that lacks something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.errors import ConversionError

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxReference"]

_FED = frozenset({"float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                  "uint64", "bool"})  # fmt: skip
"""Types that ONNX Runtime takes from numpy."""


class OnnxReference:
    """Runs a model with every optimisation off.

    ``name`` says what runs it; it is known after the first run.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.name = ""
        self._refused = ""

    def run(
        self, inputs: Mapping[str, np.ndarray], extra: Sequence[str] = (), *, by_evaluator: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the outputs by name, and ``extra`` tensors from inside of the graph.

        ``by_evaluator`` leaves ONNX Runtime out.

        Raises:
            ConversionError: neither ONNX Runtime nor the reference evaluator can run the model.
        """
        names = [value.name for value in self.model.graph.output]
        wanted = [*names, *(name for name in dict.fromkeys(extra) if name not in names)]
        if not by_evaluator and not self._refused and all(value.dtype.name in _FED for value in inputs.values()):
            try:
                return self._onnxruntime(inputs, wanted)
            except Exception as error:
                self._refused = str(error).splitlines()[0]
        try:
            return self._evaluator(inputs, wanted)
        except Exception as error:
            reason = f"; ONNX Runtime says: {self._refused}" if self._refused else ""
            raise ConversionError(
                f"Nothing here can run the model as ONNX means it: {str(error).splitlines()[0] or type(error).__name__}"
                f"{reason}",
                hint="Give inputs that the model takes with --inputs, or update onnxruntime.",
            ) from error

    def _onnxruntime(self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        model = _with_outputs(self.model, wanted).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        known = {value.name for value in session.get_inputs()}
        values = session.run(list(wanted), {name: value for name, value in inputs.items() if name in known})
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        types = {value.name: value.type for value in session.get_outputs()}
        return {name: _decoded(value, types[name]) for name, value in zip(wanted, values, strict=True)}

    def _evaluator(self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator: Any = ReferenceEvaluator(_with_outputs(self.model, wanted))
        with np.errstate(all="ignore"):
            values = evaluator.run(list(wanted), dict(inputs))
        self.name = f"the reference evaluator of ONNX {onnx.__version__}"
        return {name: np.asarray(value) for name, value in zip(wanted, values, strict=True)}


def _decoded(value: np.ndarray, kind: str) -> np.ndarray:
    """Return float8 values, which ONNX Runtime hands out as bytes, in their type."""
    import ml_dtypes

    return value.view(ml_dtypes.float8_e4m3fn) if kind == "tensor(float8e4m3fn)" else value


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return the model with these tensors as outputs."""
    import onnx

    known = {value.name for value in model.graph.output}
    new = [name for name in names if name not in known]
    if not new:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    return result
