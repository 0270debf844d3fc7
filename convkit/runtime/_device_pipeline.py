"""The device pipeline: one upload, preprocess, engine, decode and one copy back, all on one CUDA stream."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from convkit.backends import DeviceSession
from convkit.errors import AdapterError, ConversionError, ConvkitError, InputError, blamed_on, named
from convkit.model import ModelSpec
from convkit.plugins import manager
from convkit.processing import (
    Decode,
    DeviceDecode,
    DevicePreprocess,
    Placement,
    Preprocess,
    checked_results,
    decode_batch,
    device_decode,
    device_preprocess,
    prepare,
)
from convkit.results import Result
from convkit.runtime._finite import FiniteCheck
from convkit.runtime._finite_on_device import FiniteOnDevice
from convkit.runtime._gpu_errors import first_error, gpu_errors, refuses_capture
from convkit.runtime._staging import ALIGNMENT, Packer, Span, layout, padded, rounded

__all__ = ["Device", "DevicePipeline", "Item"]

SLOTS = 2
"""Batches in flight: the host packs one while the GPU works on the other."""
PLANS = 8
"""Combinations of batch size and input shapes whose buffers and CUDA graph a slot keeps, least recently used out."""
_PAYLOAD_ALIGNMENT = 256
_STAGING_STEP = 1 << 20

_Key = tuple[int, tuple[tuple[str, tuple[int, ...]], ...]]


class Device(Protocol):
    """What a pipeline needs of a GPU; `convkit.runtime.Cuda` implements it."""

    @property
    def stream(self) -> int: ...
    def active(self) -> AbstractContextManager[None]: ...
    def pinned(self, size: int) -> np.ndarray: ...
    def memory(self, size: int) -> Any: ...
    def view(self, memory: Any, offset: int, shape: Sequence[int], dtype: str) -> Any: ...
    def upload(self, memory: Any, pinned: np.ndarray, size: int, *, concurrent: bool) -> None: ...
    def download(self, pinned: np.ndarray, memory: Any) -> None: ...
    def record(self) -> Callable[[], None]: ...
    def synchronize(self) -> None: ...


@dataclass(frozen=True)
class Item:
    """One raw input on its way: its placement, or its tensors where the preprocess ran on the host.

    ``shapes`` are those of the input tensors by name, without the batch axis where the input has one; ``values`` are
    the inputs of the device decode.
    """

    shapes: Mapping[str, tuple[int, ...]]
    meta: Mapping[str, Any]
    values: Mapping[str, np.ndarray]
    placement: Placement | None = None
    tensors: Mapping[str, np.ndarray] | None = None


@dataclass
class _Plan:
    """The buffers of one batch size and input shapes in one slot, and the captured work on them.

    ``records``, ``inputs`` and ``results`` are views of host memory; the others with ``device_`` are on the GPU.
    """

    key: _Key
    tensors: Mapping[str, Any]
    payload_start: int
    inputs: Mapping[str, np.ndarray]
    records: np.ndarray | None = None
    results: Mapping[str, np.ndarray] = field(default_factory=dict)
    results_host: np.ndarray | None = None
    device_records: Any = None
    device_payloads: Any = None
    device_inputs: Mapping[str, Any] = field(default_factory=dict)
    device_results: dict[str, Any] = field(default_factory=dict)
    device_flags: Any = None
    results_memory: Any = None
    outputs: Mapping[str, Any] | None = None
    replay: Callable[[], None] | None = None

    @property
    def batch(self) -> int:
        """The number of items that the buffers are for."""
        return self.key[0]


class _Slot:
    """Staging memory on host and device, which grows, and the plans whose buffers lie in it."""

    def __init__(self) -> None:
        self.staging = np.empty(0, np.uint8)
        self.memory: Any = None
        self.plans: OrderedDict[_Key, _Plan] = OrderedDict()
        self.busy: Callable[[], None] | None = None


@dataclass(frozen=True)
class _InFlight:
    """A batch that was submitted; ``done`` waits for it."""

    plan: _Plan
    items: Sequence[Item]
    done: Callable[[], None]


class DevicePipeline:
    """Runs batches of raw inputs to results on one GPU.

    Preprocess and decode run on the GPU where they have a device side; otherwise they run on the host, with a copy of
    the input tensors or of the outputs. The first two runs of a batch size and its input shapes are plain launches; the
    third is captured in a CUDA graph where the engine allows it, and later ones replay the graph. Batches of fewer than
    ``batch_min`` items are filled up with the last item. ``finite`` refuses outputs that are no numbers, where the
    decode is. The class is not thread-safe.

    Raises:
        AdapterError: a device side breaks its contract.
    """

    def __init__(
        self,
        device: Device,
        engine: DeviceSession,
        spec: ModelSpec,
        preprocess: Preprocess,
        decode: Decode | None,
        *,
        batch_min: int,
        finite: FiniteCheck | None = None,
    ) -> None:
        self.device, self.engine, self.batch_min, self._spec = device, engine, batch_min, spec
        self._inputs = {each.name: each.shape[:1] == ("batch",) for each in spec.inputs}
        self._outputs = {each.name: each.shape[:1] == ("batch",) for each in spec.outputs}
        self._host_preprocess, self._host_decode = preprocess, decode
        with device.active():
            self._preprocess: DevicePreprocess | None = device_preprocess(preprocess)
            self._decode: DeviceDecode | None = device_decode(decode)
        self._finite = finite
        self._watch = FiniteOnDevice(finite, spec.outputs) if finite and self._decode else None
        self._record_size = self._preprocess.record.itemsize if self._preprocess else 0
        if self._preprocess and (self._record_size % ALIGNMENT or not self._record_size):
            raise AdapterError(
                f"The record of {type(self._preprocess).__name__} has {self._record_size} bytes.",
                hint=f"Pad the structured type to a multiple of {ALIGNMENT} bytes.",
            )
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._next = 0
        self._runs: Counter[_Key] = Counter()
        self._uncaptured: set[_Key] = set()
        self._packer = Packer()
        self._payload_starts: dict[int, int] = {}

    def item(self, raw: Any) -> Item:
        """Return a raw input ready for `flow`, with the shapes of its input tensors.

        Raises:
            ConvkitError: the model does not take this input.
        """
        if self._preprocess is None:
            prepared = prepare(self._spec, self._host_preprocess, raw)
            shapes = {name: value.shape for name, value in prepared.tensors.items()}
            return Item(shapes, prepared.meta, self._values(prepared.meta), tensors=prepared.tensors)
        with self._blamed("place", self._preprocess):
            placement = self._preprocess.place(raw)
        return Item(placement.shapes, placement.meta, self._values(placement.meta), placement)

    def flow(self, batches: Iterable[Sequence[Item]]) -> Iterator[Result]:
        """Yield one result per item, in order; the host packs a batch while the GPU works on the one before.

        The items of a batch have equal shapes.

        Raises:
            ConversionError: the model has no decode.
            EnvironmentProblem: the GPU is out of memory, or fails.
            NotFiniteError: the engine returned NaN or infinity.
            AdapterError: decode returns another number of results than items.
        """
        if self._host_decode is None:
            raise ConversionError("This model has no decode, so there are no results.", hint="Ask for its outputs.")
        in_flight: deque[_InFlight] = deque()
        depth = len(self._slots) if self._decode else 1  # the host decodes from the engine's own output buffers
        for items in batches:
            if len(in_flight) == depth:
                yield from self._collect(in_flight.popleft())
            in_flight.append(self._submit(items, concurrent=bool(in_flight)))
        while in_flight:
            yield from self._collect(in_flight.popleft())

    def outputs(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """Return the model's outputs for one batch on the host, without decoding them.

        Raises:
            EnvironmentProblem: the GPU is out of memory, or fails.
        """
        return self._fetch(self._submit(items, concurrent=False))

    def close(self) -> None:
        """Wait for the GPU and free all buffers."""
        try:
            self.device.synchronize()
        finally:
            self._slots = [_Slot() for _ in range(SLOTS)]
            self._packer.close()

    def _values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        if self._decode is None:
            return {}
        with self._blamed("values", self._decode):
            return self._decode.values(meta)

    def _blamed(self, method: str, side: DevicePreprocess | DeviceDecode) -> AbstractContextManager[None]:
        """Blame what a device side raises on its plugin; of a launch, what the GPU and its libraries raise passes."""
        host = self._host_preprocess if side is self._preprocess else self._host_decode
        passing = (RuntimeError, MemoryError) if method == "launch" else ()
        return blamed_on(f"{method}() of {type(side).__name__}", manager().origin(host), passing=passing)

    def _submit(self, items: Sequence[Item], *, concurrent: bool) -> _InFlight:
        slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        with gpu_errors(len(items)):
            if slot.busy:
                slot.busy()
            with self.device.active():
                plan = self._plan(slot, items)
                if self._preprocess is None:
                    self._fill(plan, items)
                size = self._pack(slot, plan, items)
                if size:
                    self.device.upload(slot.memory, slot.staging, size, concurrent=concurrent)
                self._run(plan)
                if plan.results_host is not None:
                    self.device.download(plan.results_host, plan.results_memory)
                slot.busy = done = self.device.record()
        return _InFlight(plan, items, done)

    def _collect(self, batch: _InFlight) -> Sequence[Result]:
        count, metas = len(batch.items), [item.meta for item in batch.items]
        if self._decode is None or batch.plan.results_host is None:
            assert self._host_decode is not None
            outputs = self._fetch(batch)
            if self._finite:
                self._finite(outputs)
            return decode_batch(self._host_decode, outputs, metas)
        with gpu_errors(count):
            batch.done()
        arrays = {name: value[:count].copy() for name, value in batch.plan.results.items()}
        if self._watch:
            self._watch.refuse(arrays.pop(self._watch.flags.name))
        with self._blamed("read", self._decode):
            results = self._decode.read(arrays, metas)
        who = named(f"read() of {type(self._decode).__name__}", manager().origin(self._host_decode))
        return checked_results(results, count, who)

    def _fetch(self, batch: _InFlight) -> dict[str, np.ndarray]:
        """Return the outputs of a batch on the host, without the rows of padding."""
        count = len(batch.items)
        assert batch.plan.outputs is not None
        with gpu_errors(count), self.device.active():
            outputs = self.engine.fetch(batch.plan.outputs)
        return {name: value[:count] if self._outputs.get(name, True) else value for name, value in outputs.items()}

    def _run(self, plan: _Plan) -> None:
        """Enqueue the work on a plan's buffers: plain launches at first, a CUDA graph from the third run on."""
        self._runs[plan.key] += 1
        if plan.replay is None and self._runs[plan.key] > 2 and plan.key not in self._uncaptured:
            self._capture(plan)
        if plan.replay is not None:
            plan.replay()
        else:
            self._launch(plan)

    def _capture(self, plan: _Plan) -> None:
        """Capture the work in a CUDA graph, or note that it cannot be captured."""
        self.device.synchronize()
        handled = sys.exc_info()[1]
        try:
            plan.replay = self.engine.capture(lambda: self._launch(plan))
        except (RuntimeError, MemoryError, ConvkitError) as error:
            first = first_error(error, handled)
            if not refuses_capture(first):
                raise first from None
            self.device.synchronize()
        if plan.replay is None:
            self._uncaptured.add(plan.key)

    def _launch(self, plan: _Plan) -> None:
        if self._preprocess is not None:
            with self._blamed("launch", self._preprocess):
                self._preprocess.launch(plan.device_records, plan.device_payloads, plan.tensors, self.device.stream)
        plan.outputs = self.engine.run(plan.tensors)
        if self._decode is not None:
            with self._blamed("launch", self._decode):
                self._decode.launch(plan.outputs, plan.device_inputs, plan.device_results, self.device.stream)
        if self._watch is not None:
            self._watch.launch(plan.outputs, plan.device_flags, self.device.stream)

    def _plan(self, slot: _Slot, items: Sequence[Item]) -> _Plan:
        """Return the plan for a batch, with room for its payloads in the slot."""
        count = max(len(items), self.batch_min)
        key = count, tuple((name, tuple(shape)) for name, shape in items[0].shapes.items())
        needed = self._payload_start(count) + sum(
            rounded(item.placement.payload.nbytes, ALIGNMENT) for item in items if item.placement is not None
        )
        if slot.memory is None or needed > slot.staging.nbytes:
            room = rounded(needed * 5 // 4 + 1, _STAGING_STEP)
            self.device.synchronize()
            slot.plans.clear()
            slot.staging, slot.memory = self.device.pinned(room), self.device.memory(room)
        if key not in slot.plans:
            while len(slot.plans) >= PLANS:
                self.device.synchronize()
                slot.plans.popitem(last=False)
            slot.plans[key] = self._new_plan(slot, key)
        slot.plans.move_to_end(key)
        return slot.plans[key]

    def _new_plan(self, slot: _Slot, key: _Key) -> _Plan:
        batch, shapes = key
        tensors = {
            name: self.engine.buffer(name, (batch, *shape) if self._inputs[name] else shape) for name, shape in shapes
        }
        spans, _ = self._input_spans(batch)
        inputs = {name: span.view(slot.staging) for name, span in spans.items()}
        plan = _Plan(key, tensors, self._payload_start(batch), inputs)
        if self._preprocess is not None:
            records = Span(0, (batch, self._record_size), "uint8")
            payloads = Span(plan.payload_start, (slot.staging.nbytes - plan.payload_start,), "uint8")
            plan.records = records.view(slot.staging).view(self._preprocess.record)[:, 0]
            plan.device_records, plan.device_payloads = (self._view(slot.memory, each) for each in (records, payloads))
        if self._decode is not None:
            watched = (self._watch.flags,) if self._watch else ()
            results, size = layout((*self._decode.results, *watched), batch)
            plan.results_memory, plan.results_host = self.device.memory(size), self.device.pinned(size)
            plan.results = {name: span.view(plan.results_host) for name, span in results.items()}
            plan.device_inputs = {name: self._view(slot.memory, span) for name, span in spans.items()}
            plan.device_results = {name: self._view(plan.results_memory, span) for name, span in results.items()}
            if self._watch is not None:
                plan.device_flags = plan.device_results[self._watch.flags.name]
                del plan.device_results[self._watch.flags.name]
        return plan

    def _view(self, memory: Any, span: Span) -> Any:
        return self.device.view(memory, span.offset, span.shape, span.dtype)

    def _input_spans(self, batch: int) -> tuple[dict[str, Span], int]:
        """Return where the inputs of the device decode lie in the staging memory, behind the records."""
        return layout(self._decode.inputs if self._decode else (), batch, batch * self._record_size)

    def _payload_start(self, batch: int) -> int:
        if batch not in self._payload_starts:
            _, end = self._input_spans(batch)
            self._payload_starts[batch] = rounded(end, _PAYLOAD_ALIGNMENT)
        return self._payload_starts[batch]

    def _fill(self, plan: _Plan, items: Sequence[Item]) -> None:
        """Copy the tensors of the host's preprocess into the input buffers."""
        for name, buffer in plan.tensors.items():
            tensors = [item.tensors[name] for item in items if item.tensors is not None]
            if self._inputs[name]:
                self.engine.fill(buffer, np.stack(padded(tensors, plan.batch)))
                continue
            if not all(np.array_equal(tensors[0], other) for other in tensors[1:]):
                raise InputError(
                    f"The input {name!r} has no batch axis, but differs within a batch.",
                    hint="Run these inputs one at a time.",
                )
            self.engine.fill(buffer, tensors[0])

    def _pack(self, slot: _Slot, plan: _Plan, items: Sequence[Item]) -> int:
        """Write records, decode inputs and payloads into the staging memory; return the bytes to copy."""
        for name, target in plan.inputs.items():
            for index, item in enumerate(padded(items, plan.batch)):
                target[index] = item.values[name]
        if self._preprocess is None or plan.records is None:
            return plan.payload_start if plan.inputs else 0
        end, placements, offsets = plan.payload_start, [], []
        for item in items:
            assert item.placement is not None
            placements.append(item.placement)
            offsets.append(end)
            end += rounded(item.placement.payload.nbytes, ALIGNMENT)
        for index, (placement, offset) in enumerate(padded(list(zip(placements, offsets, strict=True)), plan.batch)):
            with self._blamed("row", self._preprocess):
                plan.records[index] = self._preprocess.row(placement, offset - plan.payload_start)
        self._packer.copy(slot.staging, offsets, [placement.payload for placement in placements])
        return end
