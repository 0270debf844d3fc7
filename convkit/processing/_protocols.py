"""The two ends of a predictor: images into input tensors, output tensors into results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from convkit.results import Result

__all__ = ["Decode", "DeviceDecode", "DevicePreprocess", "Placement", "Prepared", "Preprocess"]


@dataclass(frozen=True)
class Prepared:
    """One image made ready: its tensor (float32, C x H x W) and what decoding needs to map back."""

    tensor: np.ndarray
    meta: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Preprocess(Protocol):
    """Turn one image (uint8, H x W x 3, BGR as OpenCV reads it) into an input tensor."""

    def __call__(self, image: np.ndarray) -> Prepared:
        """Return the tensor and its ``meta``, a JSON object."""
        ...


@runtime_checkable
class Decode(Protocol):
    """Turn the outputs of a batch into one result an image."""

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> Sequence[Result]:
        """Return ``len(metas)`` results; ``outputs`` have the batch on axis 0."""
        ...


@dataclass(frozen=True)
class Placement:
    """Where an image of a given size goes in the input tensor: all that a device preprocess needs to know of it."""

    shape: tuple[int, int, int]
    """Channels, height and width of the input tensor."""
    matrix: np.ndarray
    """float32 or float64 [2, 3]: a pixel (x, y, 1) of the input tensor to the point of the image that it samples."""
    meta: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class DevicePreprocess(Protocol):
    """A preprocess on the GPU; what ``on_device()`` of a `Preprocess` returns where it has one."""

    record: np.dtype[Any]
    """What ``launch`` reads of an image: a structured type of a multiple of 16 bytes."""

    def place(self, height: int, width: int) -> Placement:
        """Return the placement of an image of that size; ``meta`` is that of the host's preprocess."""
        ...

    def row(self, placement: Placement, height: int, width: int, offset: int) -> tuple[Any, ...]:
        """Return the values of the record of an image of that size, which lies at a byte offset in ``pixels``."""
        ...

    def launch(self, table: Any, pixels: Any, output: Any, stream: int) -> None:
        """Fill ``output`` [B, C, H, W] on the stream; it may be contiguous or channels-last, of 16 or 32 bits.

        ``pixels`` (uint8 [bytes]) holds the images, BGR rows without gaps, each from a multiple of 16 bytes on;
        ``table`` (uint8 [B, bytes]) the records. Several records may mean the same image.
        """
        ...


@runtime_checkable
class DeviceDecode(Protocol):
    """A decode on the GPU; what ``on_device()`` of a `Decode` returns where it has one."""

    rows: int
    """How many results an image has at most."""

    def back(self, meta: Mapping[str, Any]) -> np.ndarray:
        """Return float64 [8]: what decoding needs of an image, such as the map from the output to the image."""
        ...

    def launch(self, outputs: Mapping[str, Any], back: Any, results: Any, counts: Any, stream: int) -> None:
        """Write ``results`` float32 [B, rows, 6] (x1, y1, x2, y2, score, class) and ``counts`` int32 [B].

        ``outputs`` are contiguous or channels-last, of 16 or 32 bits; ``back`` is float64 [B, 8]. The first launch
        for a batch and size may compile and allocate; the ones after it may be captured in a CUDA graph.
        """
        ...

    def results(self, rows: np.ndarray, counts: np.ndarray) -> list[Result]:
        """Return the results of a batch from the host's copies of what ``launch`` wrote."""
        ...
