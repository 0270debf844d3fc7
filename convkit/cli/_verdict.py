"""The verdict as a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    from convkit.proof import Check, Verdict

__all__ = ["print_verdict"]


def print_verdict(verdict: Verdict, console: Console, *, verbose: bool = False) -> None:
    """Print one row for each output, the worst over all shapes; ``verbose`` prints every check and the ledger.

    Checks that failed always have a row of their own.
    """
    from convkit.cli._layout import show, styled

    ledger: list[RenderableType] = [_ledger(verdict), ""] if verbose and verdict.ledger else []
    notes = [styled(f"note: {note}") for note in verdict.notes]
    summary = f"{verdict.headline()}; reference {verdict.reference}; {verdict.inputs}"
    style = "green" if verdict.passed else "bold red"
    show(console, *ledger, _checks(verdict, verbose=verbose), *notes, styled(summary, style))


def _ledger(verdict: Verdict) -> Table:
    from convkit.cli._layout import add_row, table

    result = table("stage", "output", "vs stage before", "vs float64", "limit", "")
    for stage in verdict.ledger:
        figures = map(_number, (stage.against_previous, stage.against_float64, stage.limit))
        add_row(result, stage.name, stage.output, *figures, _mark("ok" if stage.passed else "FAIL"))
    return result


def _checks(verdict: Verdict, *, verbose: bool) -> Table:
    from convkit.cli._layout import add_row, styled, table

    result = table("output", "check", "shapes", "worst", "limit", "")
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in verdict.checks:
        alone = verbose or not check.passed
        groups.setdefault((check.output, f"{check.kind} {check.case}" if alone else check.kind), []).append(check)
    for checks in groups.values():
        worst = max(checks, key=_tightness)
        cases = worst.case if verbose or not worst.passed else str(len(checks))
        figure, limit = _headline(worst)
        add_row(result, worst.output, worst.kind, cases, figure, limit, _mark(worst.state))
        if not worst.passed and worst.note not in figure:
            add_row(result, "", "", "", styled(worst.note, "red"), "", "")
    return result


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


def _mark(state: str) -> Text:
    from convkit.cli._layout import styled

    return styled(state, {"ok": "green", "FAIL": "bold red"}.get(state, "yellow"))
