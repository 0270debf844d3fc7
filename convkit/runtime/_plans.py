"""The buffers of a device pipeline: one set for each batch size and input shapes, in memory that a slot keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convkit.backends import DeviceSession
from convkit.errors import AdapterError
from convkit.processing import DeviceDecode, DevicePreprocess
from convkit.runtime._buffers import Device, Item, Key, Plan, Slot
from convkit.runtime._finite_on_device import FiniteOnDevice
from convkit.runtime._staging import ALIGNMENT, Span, layout, rounded

__all__ = ["PLANS", "Plans"]

PLANS = 8
"""Combinations of batch size and input shapes whose buffers and CUDA graph a slot keeps, least recently used out."""
_PAYLOAD_ALIGNMENT = 256
_STAGING_STEP = 1 << 20


class Plans:
    """Makes the buffers of batches of at least ``batch_min``.

    ``inputs`` tells of each input of the engine whether it has a batch axis.

    Raises:
        AdapterError: the record of the preprocess cannot lie in staging memory.
    """

    def __init__(
        self,
        device: Device,
        engine: DeviceSession,
        inputs: Mapping[str, bool],
        batch_min: int,
        preprocess: DevicePreprocess | None,
        decode: DeviceDecode | None,
        watch: FiniteOnDevice | None,
    ) -> None:
        self._device, self._engine, self._inputs, self._batch_min = device, engine, inputs, batch_min
        self._preprocess, self._decode, self._watch = preprocess, decode, watch
        self._record_size = preprocess.record.itemsize if preprocess else 0
        if preprocess and (self._record_size % ALIGNMENT or not self._record_size):
            raise AdapterError(
                f"The record of {type(preprocess).__name__} has {self._record_size} bytes.",
                hint=f"Pad the structured type to a multiple of {ALIGNMENT} bytes.",
            )
        self._payload_starts: dict[int, int] = {}

    def of(self, slot: Slot, items: Sequence[Item]) -> Plan:
        """Return the plan for a batch, with room for its payloads in the slot."""
        count = max(len(items), self._batch_min)
        key = count, tuple((name, tuple(shape)) for name, shape in items[0].shapes.items())
        needed = self._payload_start(count) + sum(
            rounded(item.payload.nbytes, ALIGNMENT) for item in items if item.payload is not None
        )
        if slot.memory is not None and needed <= slot.staging.nbytes and key in slot.plans:
            slot.plans.move_to_end(key)
            return slot.plans[key]
        with self._device.active():
            return self._made(slot, key, needed)

    def _made(self, slot: Slot, key: Key, needed: int) -> Plan:
        if slot.memory is None or needed > slot.staging.nbytes:
            room = rounded(needed * 5 // 4 + 1, _STAGING_STEP)
            self._device.synchronize()
            slot.plans.clear()
            slot.staging, slot.memory = self._device.pinned(room), self._device.memory(room)
        if key not in slot.plans:
            while len(slot.plans) >= PLANS:
                self._device.synchronize()
                slot.plans.popitem(last=False)
            slot.plans[key] = self._new_plan(slot, key)
        return slot.plans[key]

    def _new_plan(self, slot: Slot, key: Key) -> Plan:
        batch, shapes = key
        tensors = {
            name: self._engine.buffer(name, (batch, *shape) if self._inputs[name] else shape) for name, shape in shapes
        }
        spans, _ = self._input_spans(batch)
        inputs = {name: span.view(slot.staging) for name, span in spans.items()}
        plan = Plan(key, tensors, self._payload_start(batch), inputs)
        if self._preprocess is not None:
            records = Span(0, (batch, self._record_size), "uint8")
            payloads = Span(plan.payload_start, (slot.staging.nbytes - plan.payload_start,), "uint8")
            plan.records = records.view(slot.staging).view(self._preprocess.record)[:, 0]
            plan.device_records, plan.device_payloads = (self._view(slot.memory, each) for each in (records, payloads))
            plan.payload_address = self._device.address(plan.device_payloads)
        if self._decode is not None:
            watched = (self._watch.flags,) if self._watch else ()
            results, size = layout((*self._decode.results, *watched), batch)
            plan.results_memory, plan.results_host = self._device.memory(size), self._device.pinned(size)
            plan.results = {name: span.view(plan.results_host) for name, span in results.items()}
            plan.device_inputs = {name: self._view(slot.memory, span) for name, span in spans.items()}
            plan.device_results = {name: self._view(plan.results_memory, span) for name, span in results.items()}
            if self._watch is not None:
                plan.device_flags = plan.device_results[self._watch.flags.name]
                del plan.device_results[self._watch.flags.name]
        return plan

    def _view(self, memory: Any, span: Span) -> Any:
        return self._device.view(memory, span.offset, span.shape, span.dtype)

    def _input_spans(self, batch: int) -> tuple[dict[str, Span], int]:
        """Return where the inputs of the device decode lie in the staging memory, behind the records."""
        return layout(self._decode.inputs if self._decode else (), batch, batch * self._record_size)

    def _payload_start(self, batch: int) -> int:
        if batch not in self._payload_starts:
            _, end = self._input_spans(batch)
            self._payload_starts[batch] = rounded(end, _PAYLOAD_ALIGNMENT)
        return self._payload_starts[batch]
