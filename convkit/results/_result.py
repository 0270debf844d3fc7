"""What every result can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Result"]


@runtime_checkable
class Result(Protocol):
    """What one image gave."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        ...

    def summary(self) -> str:
        """Return the result as a short line for people."""
        ...

    def draw(self, image: np.ndarray) -> np.ndarray:
        """Return a copy of the BGR image with the result drawn on it."""
        ...
