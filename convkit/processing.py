"""The two ends of a predictor: images into input tensors, output tensors into results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from convkit.results import Result

__all__ = ["Decode", "Prepared", "Preprocess"]


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
