"""The rung *understood*: what TensorRT's parser built, replayed, against what the ONNX model means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convkit.backends.tensorrt._judge import INTEGERS, SAME_TYPE, Verdicts, judge_tensor, rounding_of
from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork
from convkit.backends.tensorrt._reference import OnnxReference
from convkit.backends.tensorrt._replay import NotReplayed, ReplayError, missing_replays, replay, trace
from convkit.backends.tensorrt._widen import widened_feeds, widened_network
from convkit.errors import ConversionError
from convkit.graph.precision import widened_model

if TYPE_CHECKING:
    import onnx

__all__ = ["Parting", "Understanding", "understand"]

Feeds = Mapping[str, np.ndarray]
SUSPECT = 1000.0
"""How far over its limit an error may be and still be put down to the reference, if another one does not have it."""


@dataclass(frozen=True)
class Parting:
    """Where the two part first.

    ``node`` is the index of the ONNX node (-1 if there is none to name), with its ``operator`` and ``name``; ``tensor``
    is the value that differs and ``layer`` what made it in TensorRT's network.
    """

    tensor: str
    verdict: Verdicts
    node: int = -1
    operator: str = ""
    name: str = ""
    layer: str = ""

    def __str__(self) -> str:
        where = f"node {self.node} {self.operator} {self.name!r}" if self.node >= 0 else f"the tensor {self.tensor!r}"
        layer = f", built as {self.layer}" if self.layer else ""
        return f"{where}{layer}: {self.verdict}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "node": self.node, "operator": self.operator, "name": self.name, "tensor": self.tensor,
            "layer": self.layer, **self.verdict.to_json(),
        }  # fmt: skip


@dataclass(frozen=True)
class Understanding:
    """Whether a network computes what its model means.

    ``not_replayed`` has the layer types, or what about a layer, that no replay knows: then nothing was compared.
    ``outputs`` has the worst verdict of each output over all inputs that were tried.
    """

    reference: str = ""
    cases: int = 0
    outputs: Mapping[str, Verdicts] = field(default_factory=dict)
    parting: Parting | None = None
    not_replayed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything was replayed, and agreed."""
        return not self.not_replayed and self.parting is None


def understand(
    network: ParsedNetwork,
    model: onnx.ModelProto,
    feeds: Sequence[Feeds],
    *,
    expected: Sequence[Mapping[str, np.ndarray]] | None = None,
    expected_by: str = "",
) -> Understanding:
    """Replay a network on inputs and compare its outputs with those of the ONNX model.

    ``expected`` are the outputs of the model for each of ``feeds`` if they are known; ``expected_by`` names what
    computed them if that may have rounded badly. Otherwise ONNX Runtime computes them, or the reference evaluator of
    ONNX; both sides then compute in float32 what is 16-bit: the types themselves are compared, and the values as
    closely as those of a float32 network.

    Raises:
        ConversionError: nothing here can run the model.
    """
    missing = missing_replays(network)
    if missing:
        texts = [f"{kind} ({len(names)} layers, for example {names[0]!r})" for kind, names in missing.items()]
        return Understanding(not_replayed=tuple(texts))
    names = _input_names(network, model)
    for mine, theirs in names.items():
        if mine != theirs:
            verdict = Verdicts(False, note=f"the input {theirs!r} is called {mine!r}")
            return Understanding(parting=Parting(theirs, verdict))
    wide = widened_network(network) if expected is None else None
    if wide is not None:
        failing = _other_types(network, model)
        if failing is not None:
            return Understanding(parting=failing)
        network, model, feeds = wide, widened_model(model), [widened_feeds(inputs) for inputs in feeds]
    reference = OnnxReference(model)
    reference.name = expected_by
    outputs: dict[str, Verdicts] = {}
    rounding: dict[str, float] = {}
    for index, inputs in enumerate(feeds):
        wanted = expected[index] if expected is not None else reference.run(inputs)
        try:
            failing = _compare(network, inputs, wanted, outputs, rounding)
        except NotReplayed as reason:
            return Understanding(not_replayed=(str(reason),))
        except ReplayError as error:
            failing = Parting("", Verdicts(False, note=error.message))
        if failing is not None and (expected is None or expected_by) and _perhaps_rounding(failing.verdict):
            failing = _second_opinion(network, reference, inputs, outputs, failing)
        rounded: Feeds = {}
        if failing is not None and expected is None and failing.verdict.error:
            rounded = _integers(network, model, reference, inputs)
            failing = _once_more(network, inputs, wanted, outputs, rounded) if rounded else failing
        if failing is not None:
            parting = _locate(network, model, reference, inputs, rounded) or failing
            return Understanding(reference.name, index + 1, outputs, parting)
    return Understanding(reference.name, len(feeds), outputs)


def _other_types(network: ParsedNetwork, model: onnx.ModelProto) -> Parting | None:
    """Return an output of the network that is of another type than the model's."""
    import onnx

    found = {network.tensors[index].name: network.tensors[index].dtype for index in network.outputs}
    for value in model.graph.output:
        number = value.type.tensor_type.elem_type
        wanted = SAME_TYPE.get(onnx.helper.tensor_dtype_to_np_dtype(number).name) if number else None
        if wanted is not None and found.get(value.name, wanted) != wanted:
            note = f"{wanted} is expected, and {found[value.name]} is built"
            return Parting(value.name, Verdicts(False, note=note))
    return None


def _perhaps_rounding(verdict: Verdicts) -> bool:
    return 0 < verdict.error <= SUSPECT * verdict.limit


def _second_opinion(
    network: ParsedNetwork, reference: OnnxReference, inputs: Feeds, outputs: dict[str, Verdicts], failing: Parting
) -> Parting | None:
    """Compare with ONNX's reference evaluator: some of ONNX Runtime's sums round far worse than PyTorch's."""
    first = reference.name
    try:
        wanted = reference.run(inputs, by_evaluator=True)
    except ConversionError:
        return failing
    if _once_more(network, inputs, wanted, outputs) is not None:
        reference.name = first
        return failing
    return None


def _once_more(
    network: ParsedNetwork, inputs: Feeds, wanted: Feeds, outputs: dict[str, Verdicts], rounded: Feeds | None = None
) -> Parting | None:
    """Compare as `_compare` does, and enter the verdicts in place of those there were if all pass."""
    again: dict[str, Verdicts] = {}
    failing = _compare(network, inputs, wanted, again, {}, rounded)
    if failing is None:
        outputs.update(again)
    return failing


def _integers(network: ParsedNetwork, model: onnx.ModelProto, reference: OnnxReference, inputs: Feeds) -> Feeds:
    """Return the quantised integers that the reference has inside of the model, by name.

    A value between two of them rounds either way, and each float after it differs by as much as a step.
    """
    quantised = {tensor.name for tensor in network.tensors if tensor.dtype in INTEGERS}
    names = [name for node in model.graph.node for name in node.output if name in quantised]
    try:
        theirs = reference.run(inputs, names) if names else {}
    except ConversionError:
        return {}
    return {name: theirs[name] for name in names if name in theirs}


def _input_names(network: ParsedNetwork, model: onnx.ModelProto) -> dict[str, str]:
    """Return the model's name of each input of the network: the same one, or the one at its place."""
    held = {tensor.name for tensor in model.graph.initializer}
    theirs = [value.name for value in model.graph.input if value.name not in held]
    mine = network.names(network.inputs)
    left = [name for name in theirs if name not in mine]
    return {name: name if name in theirs or not left else left.pop(0) for name in mine}


def _compare(
    network: ParsedNetwork,
    inputs: Feeds,
    wanted: Mapping[str, np.ndarray],
    outputs: dict[str, Verdicts],
    rounding: dict[str, float],
    rounded: Feeds | None = None,
) -> Parting | None:
    """Compare every output and enter the verdicts; return the first that fails.

    The replay in float64 takes longest and only ever widens a limit, so it runs where the other does not do. What it
    shows of the network's rounding is entered in ``rounding`` by output, and counts for the inputs that follow.
    """
    narrow = replay(network, inputs, rounded=rounded)
    verdicts = _judge_outputs(network, wanted, narrow, narrow, rounding)
    if any(not verdict.passed and verdict.error for verdict in verdicts.values()):
        wide = replay(network, inputs, wide=True, rounded=rounded)
        verdicts = _judge_outputs(network, wanted, narrow, wide, {})
        for name in narrow:
            rounding[name] = max(rounding.get(name, 0.0), rounding_of(narrow[name], wide[name]))
    failing = None
    for name, verdict in verdicts.items():
        worst = outputs.get(name)
        if worst is None or not verdict.passed or (worst.passed and _share(verdict) > _share(worst)):
            outputs[name] = verdict
        if not verdict.passed and failing is None:
            failing = Parting(name, verdict)
    return failing


def _judge_outputs(
    network: ParsedNetwork, wanted: Feeds, narrow: Feeds, wide: Feeds, rounding: Mapping[str, float]
) -> dict[str, Verdicts]:
    types = {network.tensors[index].name: network.tensors[index].dtype for index in network.outputs}
    return {
        name: judge_tensor(np.asarray(value), narrow[name], wide[name], types[name], rounding=rounding.get(name, 0.0))
        if name in narrow
        else Verdicts(False, note=f"the output {name!r} is missing")
        for name, value in wanted.items()
    }


def _share(verdict: Verdicts) -> float:
    return verdict.error / verdict.limit if verdict.limit else 0.0


def _locate(
    network: ParsedNetwork, model: onnx.ModelProto, reference: OnnxReference, inputs: Feeds, rounded: Feeds
) -> Parting | None:
    """Return the first ONNX node whose result differs, or whose layers cannot run; None if no node can be named.

    TensorRT's parser calls the results of nodes as ONNX does, so the same names are the same values.
    """
    index_of = {tensor.name: index for index, tensor in enumerate(network.tensors)}
    producer = {index: layer for layer in network.layers for index in layer.outputs}
    names = [name for node in model.graph.node for name in node.output if index_of.get(name) in producer]
    try:
        theirs = reference.run(inputs, names)
    except ConversionError:
        return None
    narrow, wide = (trace(network, inputs, names, wide=wide, rounded=rounded) for wide in (False, True))
    for number, node in enumerate(model.graph.node):
        for name in node.output:
            if name not in narrow or name not in theirs:
                continue
            mine, best = narrow[name], wide[name]
            if isinstance(mine, Exception) or isinstance(best, Exception):
                verdict = Verdicts(False, note=str(mine if isinstance(mine, Exception) else best))
            else:
                verdict = judge_tensor(np.asarray(theirs[name]), mine, best, network.tensors[index_of[name]].dtype)
            if not verdict.passed:
                layer = _describe(producer[index_of[name]])
                return Parting(name, verdict, number, node.op_type, node.name, layer)
    return None


def _describe(layer: ParsedLayer) -> str:
    """Return a layer's type and name, and what it is set to."""
    settings = ", ".join(f"{name} {value}" for name, value in layer.attributes.items() if value is not None)
    return f"{layer}{f' ({settings})' if settings else ''}"
