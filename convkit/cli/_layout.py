"""Tables and figures as the commands that describe things print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["add_row", "bytes_text", "count_text", "field_grid", "flops_text", "plural", "shape_text", "show", "table"]

_WIDE = 10_000
"""Columns of an output that is no terminal: lines never break there."""


def show(console: Console, *renderables: RenderableType) -> None:
    """Print things below each other: fitted to a terminal, else one unbroken line a row, without padding."""
    if console.is_terminal:
        console.print(*renderables, sep="\n", soft_wrap=False, markup=False)
        return
    console.width = _WIDE
    with console.capture() as captured:
        console.print(*renderables, sep="\n", markup=False)
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    console.file.write(text + "\n")
    console.file.flush()


def table(*columns: str, numbers: Sequence[int] = ()) -> Table:
    """Return an empty table without lines; the columns at ``numbers`` are aligned right and never broken."""
    from rich.table import Table

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, name in enumerate(columns):
        if index in numbers:
            result.add_column(name, justify="right", no_wrap=True)
        else:
            result.add_column(name, overflow="fold")
    return result


def add_row(grid: Table, *cells: str | Text, style: str = "") -> None:
    """Add a row, taking every character as it is: names may hold ``[b]`` or ``:car:``, which rich would interpret."""
    from rich.text import Text

    grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


def field_grid(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return names with what they stand for, one below the other; empty values are left out."""
    from rich.table import Table

    result = Table.grid(padding=(0, 2, 0, 0))
    result.add_column(style="dim", no_wrap=True, min_width=10)
    result.add_column(overflow="fold")
    for name, value in rows:
        if value:
            add_row(result, name, value)
    return result


def count_text(value: int) -> str:
    """Return a count for people: ``734``, ``12 340``, ``14.4 M``."""
    if value < 1_000_000:
        return f"{value:,}".replace(",", " ")
    return f"{value / 1e6:.2f} M" if value < 1_000_000_000 else f"{value / 1e9:.2f} G"


def bytes_text(value: int) -> str:
    """Return a size for people, in powers of 1000."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 100 * size else f"{value / size:.0f} {unit}"
    return f"{value} B"


def flops_text(value: int, unit: str = "") -> str:
    """Return an amount of arithmetic for people, in ``unit`` (M, G …) or the largest one that fits."""
    scales = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}
    chosen = unit or next((name for name, scale in scales.items() if value >= scale), "")
    return f"{value / scales.get(chosen, 1):.3g} {chosen}FLOP"


def shape_text(shape: Sequence[int | str] | None) -> str:
    """Return a shape as ``batch x 3 x 512 x 512``."""
    return "unknown shape" if shape is None else " x ".join(map(str, shape)) or "scalar"


def plural(count: int, noun: str) -> str:
    """Return ``1 node`` or ``3 nodes``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
