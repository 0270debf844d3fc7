"""How long work tells what it is doing."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "silent"]


class Progress(Protocol):
    """Called with the name of each step; ``done`` of ``total`` where the step counts something."""

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        """Announce a step."""
        ...


def silent(step: str, done: int = 0, total: int = 0) -> None:
    """Say nothing."""
    del step, done, total
