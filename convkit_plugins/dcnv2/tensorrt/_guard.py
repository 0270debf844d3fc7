"""Callbacks of a plugin whose failures are kept: TensorRT swallows some exceptions, and cannot bear others."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from convkit.errors import ConvkitError

__all__ = ["Failures", "callback"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Failures:
    """Where the failures of a plugin are told: the list of each that asked for them."""

    def __init__(self) -> None:
        self._lists: list[list[str]] = []

    def tell(self, failures: list[str]) -> None:
        """Append what fails from now on to a list, too."""
        if not any(failures is known for known in self._lists):
            self._lists.append(failures)

    def add(self, where: str, error: Exception) -> None:
        """Append an error to all lists."""
        text = (
            f"{error.message} {error.hint}" if isinstance(error, ConvkitError) else f"{type(error).__name__}: {error}"
        )
        for failures in self._lists:
            failures.append(f"{where}: {' '.join(text.split())}")


def callback(fallback: Callable[[Any], Any] | None = None) -> Callable[[_Function], _Function]:
    """Return a decorator for a method that TensorRT calls.

    What the method raises is added to ``self.failures``, with ``self.title`` and the name of the method. Then
    ``fallback`` of the object is returned in its place; without one the exception goes on, which TensorRT takes as the
    failure of this call.
    """

    def decorate(function: _Function) -> _Function:
        @wraps(function)
        def run(self: Any, *arguments: Any) -> Any:
            try:
                return run.__wrapped__(self, *arguments)
            except Exception as error:
                self.failures.add(f"{self.title}, {function.__name__}", error)
                if fallback is None:
                    raise
                return fallback(self)

        return run  # type: ignore[return-value]

    return decorate
