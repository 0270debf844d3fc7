"""The ladder of an engine's proof on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from convkit.backends import Ladder

__all__ = ["ladder_rows", "print_ladder"]

STYLES = {"passed": "green", "failed": "bold red", "pending": "dim", "not replayed": "yellow"}


def print_ladder(ladder: Ladder, console: Console) -> None:
    """Print one row for each rung: its name, its state, and what that rests on."""
    from convkit.cli._layout import show

    show(console, ladder_rows(ladder))


def ladder_rows(ladder: Ladder) -> RenderableType:
    """Return the table that `print_ladder` prints."""
    from convkit.cli._layout import add_row, grid, styled

    rows = grid(3, unbroken=2)
    for rung in ladder.rungs:
        add_row(rows, rung.name, styled(rung.state, STYLES[rung.state]), rung.summary)
    return rows
