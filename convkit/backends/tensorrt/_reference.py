"""What an ONNX model computes: by ONNX Runtime, or where that lacks something by ONNX's evaluator or PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.backends import foreign_operators, open_session
from convkit.errors import ConversionError
from convkit.graph.precision import widened_model

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxReference"]

_FED = frozenset({"float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                  "uint64", "bool"})  # fmt: skip
"""Types that ONNX Runtime takes from numpy."""

OLDEST = 13
"""The lowest opset that ONNX's reference evaluator is asked for: it computes older operators as newer ones."""


class OnnxReference:
    """Runs a model with every optimisation off.

    ONNX Runtime runs it; or, in float32, a model of bfloat16; or the reference evaluator of ONNX what else remains. A
    model with operators of convkit's plugins is run by the backend ``torch``.

    ``name`` says what runs it; it is known after the first run.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.name = ""
        self._refused = ""
        self._ways = [self._onnxruntime, self._onnxruntime_widened]
        if foreign_operators(model):
            self._ways = [self._torch]

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
        while self._ways and not by_evaluator:
            try:
                return self._ways[0](inputs, wanted)
            except Exception as error:
                self._refused = self._refused or str(error).splitlines()[0]
                del self._ways[0]
        try:
            return self._evaluator(inputs, wanted)
        except Exception as error:
            reason = f"; ONNX Runtime says: {self._refused}" if self._refused else ""
            raise ConversionError(
                f"Nothing here can run the model as ONNX means it: {str(error).splitlines()[0] or type(error).__name__}"
                f"{reason}",
                hint="Give inputs that the model takes with --inputs, or update onnxruntime.",
            ) from error

    def _onnxruntime(
        self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str], model: onnx.ModelProto | None = None
    ) -> dict[str, np.ndarray]:
        from convkit._onnxruntime import onnxruntime

        if not all(value.dtype.name in _FED for value in inputs.values()):
            raise TypeError("it takes no inputs of these types from numpy")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        data = _with_outputs(model or self.model, wanted).SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        known = {value.name for value in session.get_inputs()}
        values = session.run(list(wanted), {name: value for name, value in inputs.items() if name in known})
        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        types = {value.name: value.type for value in session.get_outputs()}
        return {name: _decoded(value, types[name]) for name, value in zip(wanted, values, strict=True)}

    def _onnxruntime_widened(self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """Run a bfloat16 model in float32, for ONNX Runtime has next to no bfloat16 on the CPU; round what it gives."""
        import ml_dtypes
        import onnx

        typed = onnx.shape_inference.infer_shapes(self.model)
        values = (*typed.graph.input, *typed.graph.output, *typed.graph.value_info)
        kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        if onnx.TensorProto.BFLOAT16 not in kinds.values():
            raise TypeError("the model has no bfloat16")
        given = {
            name: value.astype(np.float32) if value.dtype == ml_dtypes.bfloat16 else value
            for name, value in inputs.items()
        }
        found = self._onnxruntime(given, wanted, widened_model(self.model, (onnx.TensorProto.BFLOAT16,)))
        self.name += " in float32"
        return {
            name: value.astype(ml_dtypes.bfloat16)
            if kinds.get(name) == onnx.TensorProto.BFLOAT16 and value.dtype == np.float32
            else value
            for name, value in found.items()
        }

    def _torch(self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the model by PyTorch; a tensor from inside whose type nobody knows is left out."""
        import ml_dtypes
        import onnx
        import torch

        typed = onnx.shape_inference.infer_shapes(self.model)
        values = {value.name: value for value in (*typed.graph.value_info, *typed.graph.output)}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(values[name] for name in wanted if name in values)
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(model, str(Path(folder) / "model.onnx"))
            session = open_session("torch", Path(folder) / "model.onnx")
        try:
            found = session.run(inputs)
        finally:
            session.close()
        self.name = f"PyTorch {torch.__version__.partition('+')[0]}"
        narrow = [
            value.name for value in model.graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
        ]
        return {**found, **{name: found[name].astype(ml_dtypes.bfloat16) for name in narrow}}

    def _evaluator(self, inputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
        import onnx
        from onnx.reference import ReferenceEvaluator

        opset = max((item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")), default=0)
        if opset < OLDEST:
            raise ValueError(f"opset {opset} is older than what the reference evaluator computes rightly")
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
