"""Preprocess and decode: raw inputs into input tensors, output tensors into results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from convkit.processing._image_reader import ImageReader
from convkit.processing._readers import Reader

if TYPE_CHECKING:
    import numpy as np

    from convkit.cuda import ArrayView, Variant
    from convkit.results import Result

__all__ = ["ArraySpec", "Decode", "DeviceDecode", "DevicePreprocess", "Join", "Placement", "Prepared", "Preprocess"]


@dataclass(frozen=True)
class Prepared:
    """One raw input made ready for the model.

    ``tensors`` maps the name of each input to its array: without the batch axis where the input has one (its first
    extent is ``batch``), whole otherwise. ``meta`` is a JSON object: what decoding needs to map results back.
    ``views`` are the same raw input in other ways, such as mirrored, of a preprocess with test-time augmentation.
    """

    tensors: Mapping[str, np.ndarray]
    meta: Mapping[str, Any] = field(default_factory=dict)
    views: Sequence[Prepared] = ()


class Join(Protocol):
    """Turns the outputs of all views of one raw input into its result."""

    def __call__(self, outputs: Sequence[Mapping[str, np.ndarray]], metas: Sequence[Mapping[str, Any]]) -> Result:
        """Return the result; ``outputs`` of each view are without the batch axis, in the order of ``metas``."""
        ...


class Preprocess(ABC):
    """Turns one raw input into input tensors. ``reader`` reads raw inputs from files; the default reads images."""

    reader: ClassVar[Reader] = ImageReader()

    @abstractmethod
    def __call__(self, raw: Any) -> Prepared:
        """Return the tensors and ``meta`` of one raw input (for images uint8, H x W x 3, BGR).

        Raises:
            InputError: this is no input that the model takes.
        """

    def on_device(self) -> DevicePreprocess | None:
        """Return the same preprocess on the GPU, or None where there is none (the default)."""
        return None

    def augmented(self, settings: Mapping[str, str]) -> Preprocess | None:
        """Return the same preprocess with test-time augmentation: what it returns has ``views``.

        None, the default, where there is none. ``settings`` are the user's, by name; `Decode.joining` gets them too.

        Raises:
            SettingError: a setting is unknown, or has a value that cannot be obeyed.
        """
        del settings
        return None


class Decode(ABC):
    """Turns the outputs of a batch into one result for each raw input."""

    @abstractmethod
    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> Sequence[Result]:
        """Return ``len(metas)`` results; ``outputs`` have the batch on axis 0, float32 where the graph's are 16-bit."""

    def on_device(self) -> DeviceDecode | None:
        """Return the same decode on the GPU, or None where there is none (the default)."""
        return None

    def joining(self, settings: Mapping[str, str]) -> Join | None:
        """Return what makes one result of the outputs of all views of a raw input; see `Preprocess.augmented`.

        None, the default, where there is nothing.

        Raises:
            SettingError: a setting is unknown, or does not go with what the graph returns.
        """
        del settings
        return None


@dataclass(frozen=True)
class ArraySpec:
    """An array on the GPU that the core allocates and copies: its name, its shape for one item, its NumPy dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Placement:
    """What a device preprocess needs of one raw input.

    ``shapes`` are those of the input tensors by name, without the batch axis. ``payload`` is a contiguous array (any
    shape and dtype) that is copied to the GPU, or None for one that is there (see `PlacesOnDevice`); ``detail`` is the
    preprocess's own, for `DevicePreprocess.row`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    meta: Mapping[str, Any]
    payload: np.ndarray | None
    detail: Any = None


@runtime_checkable
class DevicePreprocess(Protocol):
    """A preprocess on the GPU."""

    @property
    def record(self) -> np.dtype[Any]:
        """What ``launch`` reads of an item: a structured type of a multiple of 16 bytes."""
        ...

    def place(self, raw: Any) -> Placement:
        """Return the placement of one raw input; ``meta`` is that of the host's preprocess."""
        ...

    def row(self, placement: Placement, offset: int) -> tuple[Any, ...]:
        """Return the values of an item's record, whose payload starts at byte ``offset`` of ``payloads``."""
        ...

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        """Fill the input ``tensors`` (batch on axis 0) on the stream.

        ``payloads`` (uint8 [bytes]) contains the payload of each item from a multiple of 16 bytes on; ``records``
        (uint8 [B, bytes]) the records. Several records may name the same payload. Tensors are contiguous or
        channels-last.
        """
        ...

    def kernels(self) -> Sequence[Variant]:
        """Return the kernel variants that ``launch`` chooses from; the artifact carries them."""
        ...


@runtime_checkable
class PlacesOnDevice(DevicePreprocess, Protocol):
    """A device preprocess that takes raw inputs where they are, if that is the GPU's memory."""

    def place_on_device(self, array: ArrayView) -> Placement:
        """Return the placement of one raw input, without a payload.

        The ``offset`` in `DevicePreprocess.row` is that of its first byte, counted from the start of ``payloads`` like
        any other: it may be negative, as large as memory, and no multiple of 16.
        """
        ...


@runtime_checkable
class DeviceDecode(Protocol):
    """A decode on the GPU."""

    @property
    def inputs(self) -> Sequence[ArraySpec]:
        """Arrays that are copied to the GPU for each item, such as the map from the output to the image."""
        ...

    @property
    def results(self) -> Sequence[ArraySpec]:
        """Arrays that ``launch`` writes for each item and that are copied back."""
        ...

    def values(self, meta: Mapping[str, Any]) -> Mapping[str, np.ndarray]:
        """Return the values of ``inputs`` for one item, by name."""
        ...

    def launch(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], results: Mapping[str, Any], stream: int
    ) -> None:
        """Write ``results`` on the stream.

        Arrays have the batch on axis 0; ``outputs`` are contiguous or channels-last, ``inputs`` and ``results``
        contiguous. The first launch for a batch, size and stream may compile and allocate; those after it may be
        captured in a CUDA graph.
        """
        ...

    def read(self, results: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Return the results of a batch from the host's copies of what ``launch`` wrote."""
        ...

    def kernels(self) -> Sequence[Variant]:
        """Return the kernel variants that ``launch`` chooses from; the artifact carries them."""
        ...
