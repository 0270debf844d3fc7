"""What a device pipeline keeps: items on their way, the buffers of a batch, and the memory in which these lie."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from convkit.cuda import ArrayView
from convkit.processing import Placement

__all__ = ["Borrowed", "Device", "Item", "Key", "Plan", "Slot"]

Key = tuple[int, tuple[tuple[str, tuple[int, ...]], ...]]
"""A batch size, and the shapes of the input tensors."""


@dataclass(frozen=True)
class Borrowed:
    """An array in the GPU's memory that belongs to somebody else, ``source``, as the kernels see it.

    ``stream`` is where it was made, for which the work on it waits; None where that is arranged.
    """

    view: ArrayView
    source: Any
    stream: int | None = None


class Device(Protocol):
    """What a pipeline needs of a GPU; `convkit.runtime.Cuda` implements it."""

    @property
    def stream(self) -> int: ...
    def active(self) -> AbstractContextManager[None]: ...
    def pinned(self, size: int) -> np.ndarray: ...
    def memory(self, size: int) -> Any: ...
    def view(self, memory: Any, offset: int, shape: Sequence[int], dtype: str) -> Any: ...
    def borrow(self, array: Any) -> Borrowed: ...
    def wait_for(self, stream: int) -> None: ...
    def address(self, array: Any) -> int: ...
    def to_host(self, borrowed: Borrowed) -> np.ndarray: ...
    def upload(self, memory: Any, pinned: np.ndarray, size: int, *, concurrent: bool) -> None: ...
    def download(self, pinned: np.ndarray, memory: Any) -> None: ...
    def record(self) -> Callable[[], None]: ...
    def synchronize(self) -> None: ...


@dataclass(frozen=True)
class Item:
    """One raw input on its way: its placement, or its tensors where the preprocess ran on the host.

    ``shapes`` are those of the input tensors by name, without the batch axis where the input has one; ``values`` are
    the inputs of the device decode; ``borrowed`` is the input where it is in the GPU's memory.
    """

    shapes: Mapping[str, tuple[int, ...]]
    meta: Mapping[str, Any]
    values: Mapping[str, np.ndarray]
    placement: Placement | None = None
    tensors: Mapping[str, np.ndarray] | None = None
    borrowed: Borrowed | None = None

    @property
    def payload(self) -> np.ndarray | None:
        """What is copied to the GPU; None where it is there, or the preprocess ran on the host."""
        return self.placement.payload if self.placement else None


@dataclass
class Plan:
    """The buffers of one batch size and input shapes in one slot, and the captured work on them.

    ``records``, ``inputs`` and ``results`` are views of host memory; the others with ``device_`` are on the GPU.
    """

    key: Key
    tensors: Mapping[str, Any]
    payload_start: int
    inputs: Mapping[str, np.ndarray]
    records: np.ndarray | None = None
    results: Mapping[str, np.ndarray] = field(default_factory=dict)
    results_host: np.ndarray | None = None
    device_records: Any = None
    device_payloads: Any = None
    payload_address: int = 0
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


class Slot:
    """Staging memory on host and device, which grows, and the plans whose buffers lie in it."""

    def __init__(self) -> None:
        self.staging = np.empty(0, np.uint8)
        self.memory: Any = None
        self.plans: OrderedDict[Key, Plan] = OrderedDict()
        self.busy: Callable[[], None] | None = None
