"""The console of rich, with the control characters of every text escaped."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from convkit.cli._console import printable

__all__ = ["Printer"]


class Printer(Console):
    """A console on which a name from a file cannot steer the terminal."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; texts have their control characters as escapes."""
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)
