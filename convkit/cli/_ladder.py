"""The ladder of an engine's proof on the terminal."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from convkit.backends import Ladder
    from convkit.conversion import BuiltEngine

__all__ = ["ladder_rows", "print_engine", "print_ladder", "prove_command"]

STYLES = {"passed": "green", "failed": "bold red", "pending": "dim", "not replayed": "yellow", "not applicable": "dim"}


def print_ladder(ladder: Ladder, console: Console) -> None:
    """Print one row for each rung: its name, its status, and what that rests on."""
    from convkit.cli._layout import show

    show(console, ladder_rows(ladder))


def print_engine(built: BuiltEngine, console: Console) -> None:
    """Print the ladder of an engine, and the command of NVIDIA's own tool where that can build the same."""
    print_ladder(built.ladder, console)
    command = built.engine.details.get("command", "")
    if command:
        console.print(
            f"The backend's own tool builds the same in {built.folder}:\n  {command}", markup=False, soft_wrap=True
        )


def prove_command(built: BuiltEngine) -> str:
    """Return the command that proves an engine on a GPU."""
    artifact = shlex.quote(str(built.folder.parent.parent))
    return f"convkit validate {artifact} --backend {built.engine.backend}"


def ladder_rows(ladder: Ladder) -> RenderableType:
    """Return the table that `print_ladder` prints."""
    from convkit.cli._layout import add_row, grid, styled

    rows = grid(3, unbroken=2)
    for rung in ladder.rungs:
        add_row(rows, rung.name, styled(rung.status, STYLES[rung.status]), rung.summary)
    return rows
