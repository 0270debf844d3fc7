"""The ladder of an engine's proof on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from convkit.backends import Ladder

__all__ = ["print_ladder"]

STYLES = {"passed": "green", "failed": "bold red", "pending": "dim", "not replayed": "yellow"}


def print_ladder(ladder: Ladder, console: Console) -> None:
    """Print one row for each rung: its name, its state, and what that rests on."""
    from convkit.cli._layout import add_row, grid, show, styled

    rows = grid(3, unbroken=2)
    for rung in ladder.rungs:
        add_row(rows, rung.name, styled(rung.state, STYLES[rung.state]), rung.summary)
    show(console, rows)
