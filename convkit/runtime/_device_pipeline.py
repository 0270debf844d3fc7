"""The device pipeline: one upload, preprocess, engine, decode and one copy back, all on one CUDA stream."""

from __future__ import annotations

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
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
    PlacesOnDevice,
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
from convkit.runtime._plans import Plans
from convkit.runtime._staging import ALIGNMENT, Packer, padded, rounded

__all__ = ["DevicePipeline"]

ON_GPU = 2
"""Batches of a stream that stay on the GPU while the next one is gathered."""
SLOTS = ON_GPU + 2
"""Batches of a stream on their way at most: those on the GPU, one that is copied, and the next one for the threads."""


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

    slot: Slot
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
        self.device, self.engine, self._spec = device, engine, spec
        self._inputs = {each.name: each.shape[:1] == ("batch",) for each in spec.inputs}
        self._outputs = {each.name: each.shape[:1] == ("batch",) for each in spec.outputs}
        self._host_preprocess, self._host_decode = preprocess, decode
        with device.active():
            self._preprocess: DevicePreprocess | None = device_preprocess(preprocess)
            self._decode: DeviceDecode | None = device_decode(decode)
        self._blame = {
            method: self._blamed(method, side)
            for side, methods in ((self._preprocess, ("place", "row")), (self._decode, ("values", "read")))
            for method in methods
            if side
        }
        self._places_on_device = self._preprocess if isinstance(self._preprocess, PlacesOnDevice) else None
        self._finite = finite
        self._watch = FiniteOnDevice(finite, spec.outputs) if finite and self._decode else None
        self._plans = Plans(device, engine, self._inputs, batch_min, self._preprocess, self._decode, self._watch)
        self._free: list[list[Slot]] = []
        self._lock = threading.RLock()
        self._runs: Counter[Key] = Counter()
        self._uncaptured: set[Key] = set()
        self.packer = Packer()

    def item(self, raw: Any) -> Item:
        """Return a raw input ready for `flow`, with the shapes of its input tensors.

        Raises:
            ConvkitError: the model does not take this input.
        """
        if self._preprocess is None:
            prepared = prepare(self._spec, self._host_preprocess, raw)
            shapes = {name: value.shape for name, value in prepared.tensors.items()}
            return Item(shapes, prepared.meta, self._values(prepared.meta), tensors=prepared.tensors)
        with self._blame["place"]:
            placement = self._preprocess.place(raw)
        if placement.payload is None:
            raise self._wrong_payload("place", "no payload", "Return the array to copy as the")
        return Item(placement.shapes, placement.meta, self._values(placement.meta), placement)

    def item_on_device(self, array: Any) -> Item:
        """Return a raw input that is in a GPU's memory ready for `flow`; it stays there where the preprocess allows it.

        It must not change before its result is there.

        Raises:
            InputError: it is on another GPU.
            ConvkitError: the model does not take this input.
        """
        borrowed = self.device.borrow(array)
        if self._places_on_device is None:
            return self.item(self.device.to_host(borrowed))
        with self._blame["place"]:
            placement = self._places_on_device.place_on_device(borrowed.view)
        if placement.payload is not None:
            raise self._wrong_payload("place_on_device", "a payload, but the input is on the GPU", "Return None as the")
        return Item(placement.shapes, placement.meta, self._values(placement.meta), placement, borrowed=borrowed)

    def _wrong_payload(self, method: str, what: str, advice: str) -> AdapterError:
        who = named(f"{method}() of {type(self._preprocess).__name__}", manager().origin(self._host_preprocess))
        return AdapterError(f"{who} returned a placement with {what}.", hint=f"{advice} payload of the placement.")

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
            yield from self._flow(batches, slots)

    @property
    def shared(self) -> bool:
        """Whether several threads may have a flow each: else the host decodes from the engine's own output buffers."""
        return self._decode is not None

    def _flow(self, batches: Iterable[Sequence[Item]], slots: Sequence[Slot]) -> Iterator[Result]:
        """Yield the results; the threads that copy a large batch are given the next one before they are done."""
        in_flight: deque[_InFlight] = deque()
        copied: deque[_Packed] = deque()
        try:
            for items in batches:
                landed = self._landed(in_flight)
                used = {id(batch.slot) for batch in in_flight} | {id(batch.slot) for batch in copied}
                copied.append(self._pack(next(slot for slot in slots if id(slot) not in used), items))
                waiting = 0 if self.packer.is_quick(copied[-1].size) else 1
                while len(copied) > waiting:
                    yield from self._submitted(copied, in_flight)
                if not waiting:
                    landed += self._landed(in_flight)
                for results in landed:
                    yield from results()
            while copied:
                yield from self._submitted(copied, in_flight)
            while in_flight:
                yield from self._land(in_flight.popleft())()
        finally:
            for packed in copied:
                packed.done()

    def _submitted(self, copied: deque[_Packed], in_flight: deque[_InFlight]) -> Iterator[Result]:
        """Put the first batch behind those in flight; where their outputs are in the engine, they come first."""
        while in_flight and not self.shared:
            yield from self._land(in_flight.popleft())()
        in_flight.append(self._submit(copied[0], concurrent=bool(in_flight)))
        copied.popleft()

    def _landed(self, in_flight: deque[_InFlight]) -> list[Callable[[], Sequence[Result]]]:
        """Wait for all but the last batches in flight; return what makes their results."""
        return [self._land(in_flight.popleft()) for _ in range(len(in_flight) - ON_GPU)]

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
        with self._blame["values"]:
            return self._decode.values(meta)

    def _blamed(self, method: str, side: DevicePreprocess | DeviceDecode) -> blamed_on:
        """Blame what a device side raises on its plugin; of a launch, what the GPU and its libraries raise passes."""
        host = self._host_preprocess if side is self._preprocess else self._host_decode
        passing = (RuntimeError, MemoryError) if method == "launch" else ()
        return blamed_on(f"{method}() of {type(side).__name__}", manager().origin(host), passing=passing)

    def _pack(self, slot: Slot, items: Sequence[Item]) -> _Packed:
        """Write records and decode inputs into the staging memory, and begin to copy the payloads there."""
        with gpu_errors(len(items)):
            if slot.busy:
                slot.busy()
            with self._lock:
                plan = self._plans.of(slot, items)
                if self._preprocess is None:
                    with self.device.active():
                        self._fill(plan, items)
        size = self._write(plan, items)
        done = self.packer.copy(
            slot.staging, plan.payload_start, [item.payload for item in items if item.payload is not None]
        )
        return _Packed(slot, plan, items, size, done)

    def _submit(self, batch: _Packed, *, concurrent: bool) -> _InFlight:
        """Enqueue the upload of a batch and the work on it."""
        batch.done()
        plan = batch.plan
        with gpu_errors(len(batch.items)), self._lock, self.device.active():
            for stream in {item.borrowed.stream for item in batch.items if item.borrowed}:
                if stream is not None:
                    self.device.wait_for(stream)
            if batch.size:
                self.device.upload(batch.slot.memory, batch.slot.staging, batch.size, concurrent=concurrent)
            self._run(plan)
            if plan.results_host is not None:
                self.device.download(plan.results_host, plan.results_memory)
            batch.slot.busy = done = self.device.record()
        return _InFlight(batch.slot, plan, batch.items, done)

    def _land(self, batch: _InFlight) -> Callable[[], Sequence[Result]]:
        """Wait for a batch; return what makes its results, for which its slot is not needed any more."""
        metas = [item.meta for item in batch.items]
        if self._decode is None or batch.plan.results_host is None:
            return partial(self._decoded, self._fetch(batch), metas)
        with gpu_errors(len(metas)):
            batch.done()
        return partial(
            self._read, {name: value[: len(metas)].copy() for name, value in batch.plan.results.items()}, metas
        )

    def _decoded(self, outputs: dict[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> Sequence[Result]:
        """Return the results by the decode of the host."""
        assert self._host_decode is not None
        if self._finite:
            self._finite(outputs)
        return decode_batch(self._host_decode, outputs, metas)

    def _read(self, arrays: dict[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> Sequence[Result]:
        """Return the results by the decode of the GPU."""
        assert self._decode is not None
        if self._watch:
            self._watch.refuse(arrays.pop(self._watch.flags.name))
        with self._blame["read"]:
            results = self._decode.read(arrays, metas)
        who = named(f"read() of {type(self._decode).__name__}", manager().origin(self._host_decode))
        return checked_results(results, len(metas), who)

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

    def _write(self, plan: Plan, items: Sequence[Item]) -> int:
        """Write records and decode inputs; return the bytes to copy to the GPU, with the payloads behind them."""
        for name, target in plan.inputs.items():
            for index, item in enumerate(padded(items, plan.batch)):
                target[index] = item.values[name]
        if self._preprocess is None or plan.records is None:
            return plan.payload_start if plan.inputs else 0
        end = plan.payload_start
        with self._blame["row"]:
            for index, item in enumerate(items):
                assert item.placement is not None
                payload = item.payload
                if item.borrowed:
                    offset = item.borrowed.view.address - plan.payload_address
                elif payload is not None:
                    offset = end - plan.payload_start
                    end += rounded(payload.nbytes, ALIGNMENT)
                plan.records[index] = self._preprocess.row(item.placement, offset)
        plan.records[len(items) :] = plan.records[len(items) - 1]
        return end
