"""The whole road on the GPU: one upload, preprocess, engine, decode, one copy back, all on one stream."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from convkit.backends import DeviceSession
from convkit.processing import Decode, DeviceDecode, DevicePreprocess, Placement, Prepared
from convkit.results import Result

__all__ = ["Device", "Road"]

SLOTS = 2
"""Batches under way at a time: the host packs one while the GPU works on the other."""
PLANS = 8
"""Batch and input shapes that a slot keeps buffers and a CUDA graph for; the longest unused goes first."""
_ALIGNMENT = 16
_PIXELS = 256
_ROOM = 1 << 20
_MANY = 4 << 20
"""Bytes of a batch from which on several threads pack it."""


class Device(Protocol):
    """What a road needs of a GPU; `convkit.runtime.Cuda` is one."""

    @property
    def stream(self) -> int: ...
    def active(self) -> AbstractContextManager[None]: ...
    def pinned(self, size: int) -> np.ndarray: ...
    def memory(self, size: int) -> Any: ...
    def view(self, memory: Any, offset: int, shape: Sequence[int], dtype: str) -> Any: ...
    def upload(self, memory: Any, pinned: np.ndarray, size: int, *, beside: bool) -> None: ...
    def download(self, pinned: np.ndarray, memory: Any) -> None: ...
    def mark(self) -> Callable[[], None]: ...
    def wait(self) -> None: ...


@dataclass(frozen=True)
class _Item:
    """An image and where it goes: its pixels, or its tensor where the preprocess ran on the host."""

    shape: tuple[int, ...]
    meta: Mapping[str, Any]
    back: np.ndarray | None = None
    pixels: np.ndarray | None = None
    placement: Placement | None = None
    tensor: np.ndarray | None = None


@dataclass
class _Plan:
    """The buffers of one batch size and input shape in one slot, and the captured work on them."""

    key: tuple[int, tuple[int, ...]]
    tensor: Any
    table: Any = None
    pixels: Any = None
    back: Any = None
    results: Any = None
    counts: Any = None
    written: Any = None
    host: np.ndarray | None = None
    outputs: Mapping[str, Any] | None = None
    replay: Callable[[], None] | None = None

    @property
    def batch(self) -> int:
        """How many images the buffers are for."""
        return self.key[0]


class _Slot:
    """Staging memory on both sides, which grows, and the plans that point into it."""

    def __init__(self) -> None:
        self.staging = np.empty(0, np.uint8)
        self.memory: Any = None
        self.plans: OrderedDict[tuple[int, tuple[int, ...]], _Plan] = OrderedDict()
        self.busy: Callable[[], None] | None = None


@dataclass(frozen=True)
class _Ticket:
    """A batch under way."""

    slot: _Slot
    plan: _Plan
    items: Sequence[_Item]
    done: Callable[[], None]


class Road:
    """Runs batches of images from host pixels to results.

    ``preprocess`` and ``decode`` are the device sides where the adapter has them; the host's run in
    their place otherwise, with a copy of the input tensor or of the outputs. The first two runs of a
    batch size and input shape are plain launches, the third is captured in a CUDA graph where the
    engine can be, and later ones replay that. Not for use by several threads at once.
    """

    def __init__(
        self,
        device: Device,
        engine: DeviceSession,
        input_name: str,
        *,
        prepare: Callable[[np.ndarray], Prepared],
        decode_on_host: Decode,
        preprocess: DevicePreprocess | None,
        decode: DeviceDecode | None,
        least: int = 1,
    ) -> None:
        self.device, self.engine, self.input_name, self.least = device, engine, input_name, least
        self._prepare, self._decode_on_host = prepare, decode_on_host
        self._preprocess, self._decode = preprocess, decode
        self._slots = [_Slot() for _ in range(SLOTS)]
        self._turn = 0
        self._runs: Counter[tuple[int, tuple[int, ...]]] = Counter()
        self._plain: set[tuple[int, tuple[int, ...]]] = set()
        self._place = lru_cache(maxsize=256)(self._placed)
        self._record = preprocess.record.itemsize if preprocess else 0
        self._workers: ThreadPoolExecutor | None = None

    def item(self, image: np.ndarray) -> _Item:
        """Return an image (uint8, H x W x 3, BGR) with its place in the input tensor."""
        if self._preprocess is None:
            prepared = self._prepare(image)
            back = self._decode.back(prepared.meta) if self._decode else None
            return _Item(prepared.tensor.shape, prepared.meta, back, tensor=prepared.tensor)
        placement, back = self._place(image.shape[0], image.shape[1])
        return _Item(placement.shape, placement.meta, back, image, placement)

    def _placed(self, height: int, width: int) -> tuple[Placement, np.ndarray | None]:
        assert self._preprocess is not None
        placement = self._preprocess.place(height, width)
        return placement, self._decode.back(placement.meta) if self._decode else None

    def flow(self, batches: Iterable[Sequence[_Item]]) -> Iterator[Result]:
        """Yield the results of batches of one shape each, in order; the next is packed while one is under way."""
        under_way: deque[_Ticket] = deque()
        depth = len(self._slots) if self._decode else 1  # what the host decodes lies in the engine's own buffers
        for items in batches:
            if len(under_way) == depth:
                yield from self._collect(under_way.popleft())
            under_way.append(self._submit(items, beside=bool(under_way)))
        while under_way:
            yield from self._collect(under_way.popleft())

    def close(self) -> None:
        """Wait for the GPU and free all buffers."""
        self.device.wait()
        self._slots = [_Slot() for _ in range(SLOTS)]
        if self._workers:
            self._workers.shutdown()
            self._workers = None

    def _submit(self, items: Sequence[_Item], *, beside: bool) -> _Ticket:
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        if slot.busy:
            slot.busy()
        with self.device.active():
            plan = self._plan(slot, items)
            if self._preprocess is None:
                tensors = [item.tensor for item in _filled(items, plan.batch)]
                self.engine.fill(plan.tensor, np.stack(tensors))
            size = self._pack(slot, plan, items)
            if size:
                self.device.upload(slot.memory, slot.staging, size, beside=beside)
            self._run(plan)
            if plan.host is not None:
                self.device.download(plan.host, plan.written)
            done = self.device.mark()
        slot.busy = done
        return _Ticket(slot, plan, items, done)

    def _collect(self, ticket: _Ticket) -> list[Result]:
        plan, count = ticket.plan, len(ticket.items)
        if self._decode is None or plan.host is None:
            assert plan.outputs is not None
            with self.device.active():
                outputs = self.engine.fetch(plan.outputs)
            kept = {name: value[:count] for name, value in outputs.items()}
            return list(self._decode_on_host(kept, [item.meta for item in ticket.items]))
        ticket.done()
        rows = plan.host[: 24 * plan.batch * self._decode.rows].view(np.float32).reshape(plan.batch, -1, 6)
        counts = plan.host[self._results(plan.batch) :].view(np.int32)
        return list(self._decode.results(rows[:count].copy(), counts[:count].copy()))

    def _run(self, plan: _Plan) -> None:
        """Enqueue the work on a plan's buffers."""
        self._runs[plan.key] += 1
        if plan.replay is None and self._runs[plan.key] > 2 and plan.key not in self._plain:
            self.device.wait()
            try:
                plan.replay = self.engine.capture(lambda: self._launch(plan))
            except RuntimeError:  # an operator that waits for the device: plain launches do the same
                self.device.wait()
            if plan.replay is None:
                self._plain.add(plan.key)
        if plan.replay is not None:
            plan.replay()
        else:
            self._launch(plan)

    def _launch(self, plan: _Plan) -> None:
        if self._preprocess is not None:
            self._preprocess.launch(plan.table, plan.pixels, plan.tensor, self.device.stream)
        plan.outputs = self.engine.run({self.input_name: plan.tensor})
        if self._decode is not None:
            self._decode.launch(plan.outputs, plan.back, plan.results, plan.counts, self.device.stream)

    def _plan(self, slot: _Slot, items: Sequence[_Item]) -> _Plan:
        """Return the plan for a batch, with room for its pixels in the slot."""
        shape, count = items[0].shape, max(len(items), self.least)
        head, _ = self._head(count)
        needed = head + sum(_rounded(item.pixels.nbytes) for item in items if item.pixels is not None)
        if slot.memory is None or needed > slot.staging.nbytes:
            room = -(-needed * 5 // 4 // _ROOM) * _ROOM
            self.device.wait()
            slot.plans.clear()
            slot.staging, slot.memory = self.device.pinned(room), self.device.memory(room)
        key = (count, shape)
        if key not in slot.plans:
            while len(slot.plans) >= PLANS:
                self.device.wait()
                slot.plans.popitem(last=False)
            slot.plans[key] = self._new(slot, count, shape)
        slot.plans.move_to_end(key)
        return slot.plans[key]

    def _new(self, slot: _Slot, batch: int, shape: tuple[int, ...]) -> _Plan:
        view, head = self.device.view, self._head(batch)
        plan = _Plan((batch, shape), self.engine.buffer(self.input_name, (batch, *shape)))
        if self._preprocess is not None:
            plan.table = view(slot.memory, 0, (batch, self._record), "uint8")
            plan.pixels = view(slot.memory, head[0], (slot.staging.nbytes - head[0],), "uint8")
        if self._decode is not None:
            results = self._results(batch)
            plan.back = view(slot.memory, head[1], (batch, 8), "float64")
            plan.written = self.device.memory(results + 4 * batch)
            plan.results = view(plan.written, 0, (batch, self._decode.rows, 6), "float32")
            plan.counts = view(plan.written, results, (batch,), "int32")
            plan.host = self.device.pinned(results + 4 * batch)
        return plan

    def _results(self, batch: int) -> int:
        """Return the bytes of the results of a batch, behind which the counts lie."""
        return _rounded(24 * batch * self._decode.rows) if self._decode is not None else 0

    def _head(self, batch: int) -> tuple[int, int]:
        """Return where the pixels and where the matrices begin in the staging memory of a batch."""
        matrices = _rounded(batch * self._record)
        end = matrices + (64 * batch if self._decode is not None else 0)
        return -(-end // _PIXELS) * _PIXELS, matrices

    def _pack(self, slot: _Slot, plan: _Plan, items: Sequence[_Item]) -> int:
        """Write records, matrices and pixels into the staging memory; return how many bytes are to be copied."""
        start, matrices = self._head(plan.batch)
        end, offsets = start, []
        for item in items:
            offsets.append(end - start)
            end += _rounded(item.pixels.nbytes) if item.pixels is not None else 0
        if self._decode is not None:
            back = slot.staging[matrices : matrices + 64 * plan.batch].view(np.float64).reshape(plan.batch, 8)
            for row, item in zip(back, _filled(items, plan.batch), strict=True):
                row[:] = item.back
        if self._preprocess is None:
            return matrices + 64 * plan.batch if self._decode is not None else 0
        table = slot.staging[: plan.batch * self._record].view(self._preprocess.record)
        for index, (item, offset) in enumerate(_filled(list(zip(items, offsets, strict=True)), plan.batch)):
            height, width, _ = item.pixels.shape
            table[index] = self._preprocess.row(item.placement, height, width, offset)
        targets = [slot.staging[start + offset :] for offset in offsets]
        copies = [(target, item.pixels) for target, item in zip(targets, items, strict=True) if item.pixels is not None]
        if end - start < _MANY or len(copies) == 1:
            for target, pixels in copies:
                _copy(target, pixels)
        else:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "convkit-pack")
            list(self._workers.map(_copy, *zip(*copies, strict=True)))
        return end


def _copy(target: np.ndarray, pixels: np.ndarray) -> None:
    np.copyto(target[: pixels.nbytes].reshape(pixels.shape), pixels)


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _filled(values: Sequence[Any], count: int) -> list[Any]:
    """Return the values, the last repeated up to ``count``."""
    return [*values, *[values[-1]] * (count - len(values))]


DevicePipeline = Road
