"""The verdict as a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from convkit.proof import Check, Verdict

__all__ = ["print_verdict"]


def print_verdict(verdict: Verdict, console: Console, *, verbose: bool = False) -> None:
    """Print one row an output, the worst over all shapes; ``verbose`` prints every check and the ledger.

    Rows of checks that failed are always printed one by one.
    """
    from rich.table import Table

    if verbose and verdict.ledger:
        ledger = Table("stage", "output", "vs stage before", "vs float64", "limit", "", box=None, pad_edge=False)
        for stage in verdict.ledger:
            ledger.add_row(
                stage.name,
                stage.output,
                _number(stage.against_previous),
                _number(stage.against_float64),
                _number(stage.limit),
                _mark(stage.passed),
            )
        console.print(ledger)
        console.print()
    table = Table("output", "check", "shapes", "worst", "limit", "", box=None, pad_edge=False)
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in verdict.checks:
        key = (
            (check.output, check.kind)
            if not (verbose or not check.passed)
            else (check.output, f"{check.kind} {check.case}")
        )
        groups.setdefault(key, []).append(check)
    for (output, _), checks in groups.items():
        worst = max(checks, key=_tightness)
        cases = worst.case if verbose or not worst.passed else str(len(checks))
        figure, limit = _headline(worst)
        table.add_row(output, worst.kind, cases, figure, limit, _mark(all(check.passed for check in checks)))
        if not worst.passed and worst.note:
            table.add_row("", "", "", f"[red]{worst.note}[/red]", "", "")
    console.print(table)
    for note in verdict.notes:
        console.print(f"note: {note}", markup=False)
    console.print(
        f"{verdict.headline()}; reference {verdict.reference}; {verdict.inputs}",
        style="green" if verdict.passed else "bold red",
        markup=False,
    )


def _tightness(check: Check) -> float:
    """Return how much of its limit a check used; a failure more than anything else."""
    if not check.passed:
        return float("inf")
    return max((check.figures[key] / check.limits[key] for key in check.figures if check.limits.get(key)), default=0.0)


def _headline(check: Check) -> tuple[str, str]:
    """Return the figure of a check that is closest to its limit, with its limit."""
    if not check.figures:
        return check.note, ""
    if "unexplained" in check.figures:
        named = [name for name in check.figures if name != "unexplained"]
        texts = [", ".join(_quantity(name, table[name]) for name in named) for table in (check.figures, check.limits)]
        return "; ".join(filter(None, (check.note, texts[0]))), texts[1]
    key = max(
        check.figures,
        key=lambda name: _number_of(check.figures[name]) / (_number_of(check.limits.get(name)) or 1e-300),
    )
    label = {"max_abs": "max abs", "rel_l2": "rel L2"}.get(key, key)
    return f"{label} {_number(check.figures[key])}", _number(check.limits[key])


def _quantity(name: str, value: float | None) -> str:
    """Return a figure of decoded results: pixels of a box, or a number with the name that the results give it."""
    if name == "max_box":
        return f"{_number(value)} px"
    return f"{name.removeprefix('max_').replace('_', ' ')} {_number(value)}"


def _number_of(value: float | None) -> float:
    return float("inf") if value is None else value


def _number(value: float | None) -> str:
    return "inf" if value is None else "0" if value == 0 else f"{value:.2g}"


def _mark(passed: bool) -> str:
    return "[green]ok[/green]" if passed else "[bold red]FAIL[/bold red]"
