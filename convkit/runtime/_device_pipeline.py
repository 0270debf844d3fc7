"""The device pipeline: one upload, preprocess, engine, decode and one copy back, all on one CUDA stream."""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from convkit.backends import DeviceSession
from convkit.errors import AdapterError, ConversionError, ConvkitError, InputError, blamed_on, named
from convkit.model import ModelSpec
from convkit.plugins import manager
from convkit.processing import (
    Decode,
    DeviceDecode,
    DevicePreprocess,
    Preprocess,
    checked_results,
    decode_batch,
    device_decode,
    device_preprocess,
    prepare,
)
from convkit.results import Result
from convkit.runtime._buffers import Device, Item, Key, Plan, Slot
from convkit.runtime._finite import FiniteCheck
from convkit.runtime._finite_on_device import FiniteOnDevice
from convkit.runtime._gpu_errors import first_error, gpu_errors, refuses_capture
from convkit.runtime._staging import ALIGNMENT, Packer, Span, layout, padded, rounded

__all__ = ["Device", "DevicePipeline", "Item"]

SLOTS = 3
"""Batches of a stream on their way: one is packed, one on the GPU, and the results of one are read."""
PLANS = 8
"""Combinations of batch size and input shapes whose buffers and CUDA graph a slot keeps, least recently used out."""
_PAYLOAD_ALIGNMENT = 256
_STAGING_STEP = 1 << 20


@dataclass(frozen=True)
class _Packed:
    """A batch whose payloads are being copied into ``size`` bytes of staging memory; ``done`` waits for that."""

    slot: Slot
    plan: Plan
    items: Sequence[Item]
    size: int
    done: Callable[[], None]


@dataclass(frozen=True)
class _InFlight:
    """A batch that was submitted; ``done`` waits for it."""

    plan: Plan
    items: Sequence[Item]
    done: Callable[[], None]


class DevicePipeline:
    """Runs batches of raw inputs to results on one GPU.

    Preprocess and decode run on the GPU where they have a device side; otherwise they run on the host, with a copy of
    the input tensors or of the outputs. The first two runs of a batch size and its input shapes are plain launches; the
    third is captured in a CUDA graph where the engine allows it, and later ones replay the graph. Batches of fewer than
    ``batch_min`` items are filled up with the last item. ``finite`` refuses outputs that are no numbers, where the
    decode is. Several threads may have a flow each, if the decode is on the GPU: their batches take turns.

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
        self._free: list[list[Slot]] = []
        self._lock = threading.RLock()
        self._runs: Counter[Key] = Counter()
        self._uncaptured: set[Key] = set()
        self.packer = Packer()
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
        with self._own_slots() as slots:
            yield from self._flow(batches, cycle(slots))

    @property
    def shared(self) -> bool:
        """Whether several threads may have a flow each: else the host decodes from the engine's own output buffers."""
        return self._decode is not None

    def _flow(self, batches: Iterable[Sequence[Item]], slots: Iterator[Slot]) -> Iterator[Result]:
        """Yield the results; while the payloads of a large batch are copied, the items of the next one are gathered."""
        in_flight: deque[_InFlight] = deque()
        packed: _Packed | None = None
        try:
            for items in batches:
                while in_flight and not self.shared:
                    yield from self._collect(in_flight.popleft())
                if packed is not None:
                    in_flight.append(self._submit(packed, concurrent=bool(in_flight)))
                while len(in_flight) > SLOTS - (1 if packed else 2):
                    yield from self._collect(in_flight.popleft())
                packed = self._pack(next(slots), items)
                if self.packer.is_quick(packed.size):
                    in_flight.append(self._submit(packed, concurrent=bool(in_flight)))
                    packed = None
            if packed is not None:
                while in_flight and not self.shared:
                    yield from self._collect(in_flight.popleft())
                in_flight.append(self._submit(packed, concurrent=bool(in_flight)))
                packed = None
            while in_flight:
                yield from self._collect(in_flight.popleft())
        finally:
            if packed is not None:
                packed.done()

    @contextmanager
    def _own_slots(self) -> Iterator[list[Slot]]:
        """Give a flow staging memory of its own, which the next flow takes over."""
        with self._lock:
            slots = self._free.pop() if self._free else [Slot() for _ in range(SLOTS)]
        try:
            yield slots
        finally:
            with self._lock:
                self._free.append(slots)

    def outputs(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """Return the model's outputs for one batch on the host, without decoding them.

        Raises:
            EnvironmentProblem: the GPU is out of memory, or fails.
        """
        with self._own_slots() as slots:
            return self._fetch(self._submit(self._pack(slots[0], items), concurrent=False))

    def close(self) -> None:
        """Wait for the GPU and free all buffers."""
        try:
            self.device.synchronize()
        finally:
            self._free = []
            self.packer.close()

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

    def _pack(self, slot: Slot, items: Sequence[Item]) -> _Packed:
        """Write records and decode inputs into the staging memory, and begin to copy the payloads there."""
        with gpu_errors(len(items)):
            if slot.busy:
                slot.busy()
            with self._lock, self.device.active():
                plan = self._plan(slot, items)
                if self._preprocess is None:
                    self._fill(plan, items)
        size, offsets = self._write(plan, items)
        payloads = [item.placement.payload for item in items if item.placement is not None]
        return _Packed(slot, plan, items, size, self.packer.copy(slot.staging, offsets, payloads))

    def _submit(self, batch: _Packed, *, concurrent: bool) -> _InFlight:
        """Enqueue the upload of a batch and the work on it."""
        batch.done()
        plan = batch.plan
        with gpu_errors(len(batch.items)), self._lock, self.device.active():
            if batch.size:
                self.device.upload(batch.slot.memory, batch.slot.staging, batch.size, concurrent=concurrent)
            self._run(plan)
            if plan.results_host is not None:
                self.device.download(plan.results_host, plan.results_memory)
            batch.slot.busy = done = self.device.record()
        return _InFlight(plan, batch.items, done)

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

    def _run(self, plan: Plan) -> None:
        """Enqueue the work on a plan's buffers: plain launches at first, a CUDA graph from the third run on."""
        self._runs[plan.key] += 1
        if plan.replay is None and self._runs[plan.key] > 2 and plan.key not in self._uncaptured:
            self._capture(plan)
        if plan.replay is not None:
            plan.replay()
        else:
            self._launch(plan)

    def _capture(self, plan: Plan) -> None:
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

    def _launch(self, plan: Plan) -> None:
        if self._preprocess is not None:
            with self._blamed("launch", self._preprocess):
                self._preprocess.launch(plan.device_records, plan.device_payloads, plan.tensors, self.device.stream)
        plan.outputs = self.engine.run(plan.tensors)
        if self._decode is not None:
            with self._blamed("launch", self._decode):
                self._decode.launch(plan.outputs, plan.device_inputs, plan.device_results, self.device.stream)
        if self._watch is not None:
            self._watch.launch(plan.outputs, plan.device_flags, self.device.stream)

    def _plan(self, slot: Slot, items: Sequence[Item]) -> Plan:
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

    def _new_plan(self, slot: Slot, key: Key) -> Plan:
        batch, shapes = key
        tensors = {
            name: self.engine.buffer(name, (batch, *shape) if self._inputs[name] else shape) for name, shape in shapes
        }
        spans, _ = self._input_spans(batch)
        inputs = {name: span.view(slot.staging) for name, span in spans.items()}
        plan = Plan(key, tensors, self._payload_start(batch), inputs)
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

    def _fill(self, plan: Plan, items: Sequence[Item]) -> None:
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

    def _write(self, plan: Plan, items: Sequence[Item]) -> tuple[int, list[int]]:
        """Write records and decode inputs; return the bytes to copy to the GPU, and where the payloads belong."""
        for name, target in plan.inputs.items():
            for index, item in enumerate(padded(items, plan.batch)):
                target[index] = item.values[name]
        if self._preprocess is None or plan.records is None:
            return plan.payload_start if plan.inputs else 0, []
        end, placements, offsets = plan.payload_start, [], []
        for item in items:
            assert item.placement is not None
            placements.append(item.placement)
            offsets.append(end)
            end += rounded(item.placement.payload.nbytes, ALIGNMENT)
        with self._blamed("row", self._preprocess):
            for index, (placement, offset) in enumerate(zip(placements, offsets, strict=True)):
                plan.records[index] = self._preprocess.row(placement, offset - plan.payload_start)
        plan.records[len(items) :] = plan.records[len(items) - 1]
        return end, offsets
