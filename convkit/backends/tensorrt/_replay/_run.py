"""Run a network layer by layer: what can run first runs first, loops turn, and only the branch that is taken runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from convkit.backends.tensorrt._judge import judge_tensor
from convkit.backends.tensorrt._network import ParsedLayer, ParsedNetwork
from convkit.backends.tensorrt._replay._call import (
    REPLAYS,
    LayerCall,
    NotReplayed,
    Replay,
    compute_dtype,
    storage_dtype,
)
from convkit.backends.tensorrt._replay._plugins import plugin_replay
from convkit.errors import ValidationError

__all__ = ["ReplayError", "missing_replays", "replay", "trace"]

_CONTROL = {"RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT", "CONDITION", "CONDITIONAL_OUTPUT"}
LONGEST_LOOP = 100_000


class ReplayError(ValidationError):
    """A layer that has a replay could not be replayed on these values, or gave another shape than TensorRT says."""


def missing_replays(network: ParsedNetwork) -> dict[str, list[str]]:
    """Return the layer types of a network that have no replay, each with the names of its layers."""
    missing: dict[str, list[str]] = {}
    for layer in network.layers:
        kind = replay_key(layer)
        if _replay_of(layer) is None and kind not in _CONTROL:
            missing.setdefault(kind, []).append(layer.name)
    return missing


def replay_key(layer: ParsedLayer) -> str:
    """Return the key of a layer in the table of replays: its type, with the plugin or the operation that it runs."""
    if layer.type == "PLUGIN_V3":
        return f"PLUGIN_V3 {layer.attributes.get('plugin_name', '')}".strip()
    if layer.type == "FILL":
        return f"FILL {layer.attributes['operation']}"
    return layer.type


def _replay_of(layer: ParsedLayer) -> Replay | None:
    if layer.type == "PLUGIN_V3":
        return plugin_replay(str(layer.attributes.get("plugin_name", "")))
    return REPLAYS.get(replay_key(layer))


def replay(
    network: ParsedNetwork,
    inputs: Mapping[str, np.ndarray],
    *,
    keep: Iterable[str] = (),
    wide: bool = False,
    rounded: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Return the outputs of a network by name, computed by PyTorch from what TensorRT's parser built.

    ``keep`` names other tensors to return, where they are computed outside of loops. ``wide`` computes in float64
    what the network computes in a floating type; bfloat16 and float8 values come back as float32 either way.
    ``rounded`` has tensors of quantised integers by name: the run goes on with them where it has the same but for what
    lies between two integers.

    Raises:
        NotReplayed: a layer is of a type, or is set in a way, that has no replay.
        ReplayError: a layer failed on these values, or gave another shape than TensorRT expects.
    """
    run = _Run(network, keep, wide=wide, rounded=rounded or {})
    with torch.inference_mode():
        for index in network.inputs:
            run.put_input(index, inputs[network.tensors[index].name])
        for index in network.outputs:
            run.evaluate(index)
        wanted = {*network.outputs, *run.kept}
        return {network.tensors[index].name: _to_numpy(run.values[index]) for index in wanted if index in run.values}


def trace(
    network: ParsedNetwork,
    inputs: Mapping[str, np.ndarray],
    names: Sequence[str],
    *,
    wide: bool = False,
    rounded: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray | Exception]:
    """Return tensors of a network by name, in this order; the exception in place of one that cannot be computed.

    All values of the run are kept in memory. ``rounded`` is that of `replay`.
    """
    run = _Run(network, names, wide=wide, rounded=rounded or {})
    index_of = {tensor.name: index for index, tensor in enumerate(network.tensors)}
    found: dict[str, np.ndarray | Exception] = {}
    with torch.inference_mode():
        for index in network.inputs:
            run.put_input(index, inputs[network.tensors[index].name])
        run.permanent = set(range(len(network.tensors)))
        for name in names:
            try:
                found[name] = _to_numpy(run.evaluate(index_of[name]))
            except (NotReplayed, ReplayError) as error:
                found[name] = error
    return found


def _to_numpy(value: torch.Tensor) -> np.ndarray:
    return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()


class _Run:
    """The values of one run: ``values`` holds the tensors that are known, by index."""

    def __init__(
        self, network: ParsedNetwork, keep: Iterable[str], *, wide: bool, rounded: Mapping[str, np.ndarray]
    ) -> None:
        self.network = network
        self.wide = wide
        self.rounded = rounded
        self.values: dict[int, torch.Tensor] = {}
        names = set(keep)
        self.kept = {index for index, tensor in enumerate(network.tensors) if tensor.name in names}
        self.producer = {index: layer for layer in network.layers for index in layer.outputs}
        self.groups: dict[str, list[ParsedLayer]] = {}
        for layer in network.layers:
            if layer.group:
                self.groups.setdefault(layer.group, []).append(layer)
        self.readers = Counter(index for layer in network.layers for index in {*layer.inputs} if index is not None)
        self.bodies = {
            group: self._body(group)
            for group, layers in self.groups.items()
            if any(layer.type in ("RECURRENCE", "ITERATOR") for layer in layers)
        }
        inside = set().union(*self.bodies.values()) if self.bodies else set()
        pinned = {
            index
            for layer in network.layers
            if layer.group or not inside.isdisjoint(layer.outputs)
            for index in layer.inputs
            if index is not None
        }
        self.permanent = {*network.outputs, *self.kept, *pinned, *inside}

    def put_input(self, index: int, array: np.ndarray) -> None:
        """Set an input of the network, in the type that TensorRT gives it."""
        dtype = storage_dtype(self.network.tensors[index].dtype, wide=self.wide)
        if array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8", "float4", "int4", "uint4")):
            array = array.astype(np.float32)  # types that numpy has from elsewhere
        self.values[index] = torch.from_numpy(np.array(array)).to(dtype)

    def _body(self, group: str) -> set[int]:
        """Return the tensors that depend on a turn of a loop: what its recurrences and iterators reach."""
        starts = [layer for layer in self.groups[group] if layer.type in ("RECURRENCE", "ITERATOR")]
        reached = {index for layer in starts for index in layer.outputs}
        consumers: dict[int, list[ParsedLayer]] = {}
        for layer in self.network.layers:
            for source in layer.inputs:
                if source is not None:
                    consumers.setdefault(source, []).append(layer)
            if layer.type == "CONDITIONAL_OUTPUT":
                condition = self._condition(layer)
                consumers.setdefault(condition, []).append(layer)
            if layer.type == "LOOP_OUTPUT":
                for member in self.groups[layer.group]:
                    for source in member.inputs:
                        if source is not None:
                            consumers.setdefault(source, []).append(layer)
        waiting = list(reached)
        while waiting:
            for layer in consumers.get(waiting.pop(), ()):
                if layer.group == group and layer.type in ("LOOP_OUTPUT", "RECURRENCE", "ITERATOR", "TRIP_LIMIT"):
                    continue
                new = set(layer.outputs) - reached
                reached |= new
                waiting += new
        return reached

    def _condition(self, layer: ParsedLayer) -> int:
        (condition,) = (other for other in self.groups[layer.group] if other.type == "CONDITION")
        return _given(condition, 0)

    def evaluate(self, index: int) -> torch.Tensor:
        """Return the value of a tensor; run what it needs first."""
        stack = [index]
        while stack:
            wanted = stack[-1]
            if wanted in self.values:
                stack.pop()
                continue
            layer = self.producer.get(wanted)
            if layer is None:
                raise ReplayError(f"Nothing makes the tensor {self.network.tensors[wanted].name!r}.")
            missing = [need for need in self._needs(layer) if need not in self.values]
            if missing:
                stack += missing
            elif layer.type == "LOOP_OUTPUT":
                self._loop(layer.group)
            else:
                self._run(layer)
        return self.values[index]

    def _needs(self, layer: ParsedLayer) -> list[int]:
        """Return what has to be known before a layer runs; of a conditional's branches, only the one taken."""
        if layer.type == "CONDITIONAL_OUTPUT":
            condition = self._condition(layer)
            if condition not in self.values:
                return [condition]
            branch = layer.inputs[0 if bool(self.values[condition].all()) else 1]
            return [] if branch is None else [branch]
        if layer.type == "LOOP_OUTPUT":
            return []
        if layer.type in ("RECURRENCE", "ITERATOR"):
            raise ReplayError(f"The {layer} is read outside of its loop.")
        return [index for index in layer.inputs if index is not None]

    def _run(self, layer: ParsedLayer) -> None:
        if layer.type == "CONDITIONAL_OUTPUT":
            (branch,) = self._needs(layer)
            self._set(layer, [self.values[branch]])
            return
        run = _replay_of(layer)
        if run is None:
            raise NotReplayed(f"{replay_key(layer)} (layer {layer.name!r})")
        tensors = self.network.tensors
        given = []
        for index in layer.inputs:
            value = None if index is None else self.values[index]
            if value is not None and index is not None and value.is_floating_point():
                value = value.to(compute_dtype(tensors[index].dtype, wide=self.wide))
            given.append(value)
        call = LayerCall(
            layer, given, [tensors[index] for index in layer.outputs],
            [None if index is None else tensors[index] for index in layer.inputs], self.wide,
        )  # fmt: skip
        try:
            result = run(call)
        except NotReplayed as reason:
            raise NotReplayed(f"{layer.type}: {reason} (layer {layer.name!r})") from reason
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
            raise ReplayError(
                f"The {layer} cannot run on these values: {str(error).splitlines()[0] if str(error) else error!r}"
            ) from error
        self._set(layer, [result] if isinstance(result, torch.Tensor) else list(result))
        for index in {*layer.inputs}:
            if index is not None:
                self.readers[index] -= 1
                if self.readers[index] <= 0 and index not in self.permanent:
                    del self.values[index]

    def _set(self, layer: ParsedLayer, results: list[torch.Tensor]) -> None:
        """Keep what a layer made, in the types that TensorRT gives its outputs; compare its shapes with TensorRT's."""
        for index, value in zip(layer.outputs, results, strict=False):
            tensor = self.network.tensors[index]
            if tensor.shape is not None and (
                len(tensor.shape) != value.ndim
                or any(size not in (-1, extent) for size, extent in zip(tensor.shape, value.shape, strict=True))
            ):
                raise ReplayError(
                    f"The {layer} gives {tuple(value.shape)} when replayed, and {tensor.shape} by TensorRT's own count."
                )
            value = value.to(storage_dtype(tensor.dtype, wide=self.wide))
            known = self.rounded.get(tensor.name)
            if known is not None and judge_tensor(known, value.numpy(), value.numpy(), tensor.dtype).passed:
                value = torch.from_numpy(known)
            self.values[index] = value

    def _loop(self, group: str) -> None:
        """Turn a loop until one of its limits ends it, and set its outputs."""
        members = self.groups[group]
        of = {kind: [layer for layer in members if layer.type == kind] for kind in _CONTROL}
        limits = {layer.attributes["kind"]: layer.inputs[0] for layer in of["TRIP_LIMIT"]}
        count = limits.get("COUNT")
        turns = int(self.evaluate(count)) if count is not None else LONGEST_LOOP
        iterated = {layer.outputs[0]: (layer, self.evaluate(_given(layer, 0))) for layer in of["ITERATOR"]}
        state = {layer.outputs[0]: self.evaluate(_given(layer, 0)) for layer in of["RECURRENCE"]}
        collected: dict[int, list[torch.Tensor]] = {
            layer.outputs[0]: [] for layer in of["LOOP_OUTPUT"] if layer.attributes["kind"] != "LAST_VALUE"
        }
        turn = 0
        while True:
            self._clear(group)
            self.values |= state
            if turn >= turns:
                break
            for index, (layer, values) in iterated.items():
                axis, place = layer.attributes["axis"], turn
                if layer.attributes["reverse"]:
                    place = values.shape[axis] - 1 - turn
                self.values[index] = values.select(axis, place)
            condition = limits.get("WHILE")
            if condition is not None and not bool(self.evaluate(condition).all()):
                break
            if turn >= LONGEST_LOOP:
                raise NotReplayed(f"a loop of more than {LONGEST_LOOP} turns")
            for layer in of["LOOP_OUTPUT"]:
                if layer.outputs[0] in collected:
                    collected[layer.outputs[0]].append(self.evaluate(_given(layer, 0)))
            state = {layer.outputs[0]: self.evaluate(_given(layer, 1)) for layer in of["RECURRENCE"]}
            turn += 1
        results = {}
        for layer in of["LOOP_OUTPUT"]:
            if layer.outputs[0] not in collected:
                results[layer.outputs[0]] = self.evaluate(_given(layer, 0))
                continue
            length = int(self.evaluate(_given(layer, 1)))
            results[layer.outputs[0]] = self._join(layer, collected[layer.outputs[0]], length)
        self._clear(group)
        for layer in of["LOOP_OUTPUT"]:
            self._set(layer, [results[layer.outputs[0]]])

    def _clear(self, group: str) -> None:
        for index in self.bodies.get(group, ()):
            self.values.pop(index, None)

    def _join(self, layer: ParsedLayer, items: list[torch.Tensor], length: int) -> torch.Tensor:
        """Return what a loop collected, ``length`` items along an axis; zeros stand for turns that did not happen."""
        axis = int(layer.attributes["axis"])
        if not items:
            tensor = self.network.tensors[layer.outputs[0]]
            shape = [max(size, 0) for size in tensor.shape or ()]
            shape[axis] = length
            return torch.zeros(shape, dtype=storage_dtype(tensor.dtype, wide=self.wide))
        padded = items[:length] + [torch.zeros_like(items[0])] * (length - len(items))
        return torch.stack(padded[::-1] if layer.attributes["kind"] == "REVERSE" else padded, axis)


def _given(layer: ParsedLayer, position: int) -> int:
    index = layer.inputs[position]
    assert index is not None
    return index
