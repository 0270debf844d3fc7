"""What quantisation costs each node by itself: fed what the float32 graph computes, so that errors do not add up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convkit.errors import ConversionError, listing
from convkit.graph._rewrite import quiet
from convkit.graph.precision._observe import Feed, Open, observe, open_onnxruntime

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

__all__ = ["SQNR_LIMIT", "LocalError", "local_errors", "require_local"]

SQNR_LIMIT = 20.0
"""Decibels by which the result of a node must be larger than its error; int8 usually gives 30."""


@dataclass(frozen=True)
class LocalError:
    """The error of a node that reads quantised tensors: its ratio to the result, in decibels of power.

    ``sqnr`` is infinite where there is no error.
    """

    node: str
    operator: str
    sqnr: float


def local_errors(
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    feeds: Iterable[Feed],
    *,
    open_model: Open | None = None,
) -> list[LocalError]:
    """Return the error of every node of a quantised ``model`` that reads what was quantised, the worst first.

    Each node gets the inputs that the float32 ``reference`` computes on the samples; its weights are quantised, too.
    ONNX Runtime on the CPU, which has no bfloat16, runs the reference, and the model unless ``open_model`` does.

    Raises:
        ConversionError: a node is in one of the graphs alone, or nothing is quantised.
        EnvironmentProblem: a graph cannot be run here.
    """
    parts = _Parts(reference, model)
    run = (open_model or open_onnxruntime)(parts.model)
    signal = dict.fromkeys(parts.results, 0.0)
    noise = dict.fromkeys(parts.results, 0.0)
    wanted = dict.fromkeys([*parts.inputs, *(exact for exact, _ in parts.results.values())])
    for _, values in observe(reference, wanted, feeds):
        found = run({given.name: values[name] for name, given in parts.inputs.items()})
        for node, (exact, own) in parts.results.items():
            expected = np.asarray(values[exact], np.float64)
            signal[node] += float(np.square(expected).sum())
            noise[node] += float(np.square(np.asarray(found[own], np.float64) - expected).sum())
    errors = [LocalError(node, parts.operators[node], _decibels(signal[node], noise[node])) for node in parts.results]
    return sorted(errors, key=lambda error: (error.sqnr, error.node))


def require_local(errors: Sequence[LocalError], least: float = SQNR_LIMIT) -> None:
    """Do nothing if every node keeps its result by ``least`` decibels.

    Raises:
        ConversionError: one does not; the message names them all.
    """
    weak = [error for error in errors if not error.sqnr >= least]
    if weak:
        named = listing(f"{error.operator} {error.node!r} ({error.sqnr:.1f} dB)" for error in weak)
        raise ConversionError(
            f"int8 loses too much in {named}: {least:g} dB are needed.",
            hint="Exclude these nodes from int8, calibrate with --calibration entropy, or give images that look like"
            " those of use.",
        )


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


class _Parts:
    """The nodes of a quantised model by themselves: what they read are inputs, and what they make are outputs.

    ``inputs`` has what ``model`` calls the tensors that it reads, by their names in the reference; ``results`` the
    output of the reference and that of ``model``, by node.
    """

    def __init__(self, reference: onnx.ModelProto, model: onnx.ModelProto) -> None:
        import onnx_graphsurgeon as gs

        with quiet():
            graph = gs.import_onnx(model)
        outputs = {node.name: node.output[0] for node in reference.graph.node}
        self.inputs: dict[str, gs.Variable] = {}
        self.results: dict[str, tuple[str, str]] = {}
        self.operators: dict[str, str] = {}
        self._casts: list[gs.Node] = []
        self._cuts: set[int] = set()
        readers = [node for node in graph.nodes if node.op != "QuantizeLinear" and any(_quantisers(node))]
        missing = [node.name for node in readers if node.name not in outputs]
        if missing or not readers:
            raise ConversionError(
                f"The reference has no node {listing(map(repr, missing))}." if missing else "Nothing is quantised.",
                hint="Give the float32 graph that the model was made of, and the model as it was made.",
            )
        results = []
        for node in readers:
            self._cut(node)
            own = gs.Variable(f"{outputs[node.name]}.alone", np.float32)
            self._casts.append(gs.Node("Cast", own.name, {"to": 1}, [node.outputs[0]], [own]))
            results.append(own)
            self.results[node.name] = (outputs[node.name], own.name)
            self.operators[node.name] = node.op
        graph.nodes += self._casts
        graph.inputs, graph.outputs = list(self.inputs.values()), results
        with quiet():
            self.model = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
        self.model.ir_version = model.ir_version

    def _cut(self, node: gs.Node) -> None:
        """Let a node read inputs of the graph, quantised or as they are."""
        import onnx_graphsurgeon as gs

        for quantiser in _quantisers(node):
            source = quantiser.inputs[0]
            if (
                quantiser.op == "QuantizeLinear"
                and not isinstance(source, gs.Constant)
                and id(quantiser) not in self._cuts
            ):
                self._cuts.add(id(quantiser))
                quantiser.inputs[0] = self._input(source)
        for place, tensor in enumerate(node.inputs):
            quantised = bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"
            if tensor.name and not quantised and not isinstance(tensor, gs.Constant):
                node.inputs[place] = self._input(tensor)

    def _input(self, tensor: gs.Tensor) -> gs.Tensor:
        """Return an input of the graph for a float tensor, cast to its type."""
        import onnx_graphsurgeon as gs

        name = tensor.name
        source = tensor
        while source.inputs and source.inputs[0].op == "Cast":
            source = source.inputs[0].inputs[0]
            name = source.name
        if name not in self.inputs:
            self.inputs[name] = gs.Variable(f"{name}.reference", np.float32, None)
        if tensor.dtype in (None, np.float32, 1):
            return self.inputs[name]
        narrow = gs.Variable(f"{name}.narrow{len(self._casts)}", tensor.dtype)
        number = tensor.dtype if isinstance(tensor.dtype, int) else _number(tensor.dtype)
        self._casts.append(gs.Node("Cast", narrow.name, {"to": number}, [self.inputs[name]], [narrow]))
        return narrow


def _quantisers(node: gs.Node) -> Iterator[gs.Node]:
    """Yield the QuantizeLinear behind each quantised input of a node, and the DequantizeLinear of its weights."""
    for tensor in node.inputs:
        back = tensor.inputs[0] if tensor.inputs else None
        if back is not None and back.op == "DequantizeLinear":
            yield back.inputs[0].inputs[0] if back.inputs[0].inputs else back


def _number(dtype: object) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))  # type: ignore[call-overload]
