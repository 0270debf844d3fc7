"""The tables of the command line: one style, one way to print them, and figures as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "add_row",
    "aligned",
    "bytes_text",
    "count_text",
    "field_grid",
    "flops_text",
    "grid",
    "plural",
    "shape_text",
    "show",
    "styled",
    "table",
]


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns, without rich: for what must answer at once."""
    rows = list(rows)
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    return ["".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show(console: Console, *renderables: RenderableType) -> None:
    """Print things below each other: fitted to a terminal, else each row as one line without padding."""
    if console.is_terminal or console.quiet:
        console.print(*renderables, sep="\n", soft_wrap=False, markup=False)
        return
    with console.capture() as captured:
        console.print(*renderables, sep="\n", markup=False)
    console.file.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
    console.file.flush()


def styled(text: str, style: str = "") -> Text:
    """Return a text in a style, every character as it is: names may contain ``[b]``, ``:car:`` or escape sequences."""
    from rich.text import Text

    from convkit.cli._console import printable

    return Text(printable(text), style=style)


def table(*columns: str, numbers: Sequence[int] = ()) -> Table:
    """Return an empty table with a header; the columns at ``numbers`` are aligned right and never broken."""
    from rich.table import Table

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, name in enumerate(columns):
        if index in numbers:
            result.add_column(name, justify="right", no_wrap=True)
        else:
            result.add_column(name, overflow="fold")
    return result


def grid(columns: int, *, unbroken: int = 1) -> Table:
    """Return an empty table without a header, whose first ``unbroken`` columns are never broken."""
    result = table(*[""] * columns)
    result.show_header = False
    for column in result.columns[:unbroken]:
        column.no_wrap = True
    return result


def field_grid(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return names with their values, one pair a row; empty values are left out."""
    result = grid(2)
    result.columns[0].style, result.columns[0].min_width = "dim", 10
    for name, value in rows:
        if value:
            add_row(result, name, value)
    return result


def add_row(rows: Table, *cells: str | Text, style: str = "") -> None:
    """Add a row; a cell that is a string is shown as `styled` does."""
    rows.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in cells), style=style)


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
