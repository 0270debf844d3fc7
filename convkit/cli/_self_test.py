"""The rates of a proof as tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from convkit.self_test import SelfTest

__all__ = ["print_self_test"]


def print_self_test(test: SelfTest, console: Console, *, verbose: bool = False) -> None:
    """Print each planted fault with the check that noticed it, and the clean variants by group.

    ``verbose`` prints every clean variant, and where a fault was not planted because it changes nothing there.
    """
    from convkit.cli._layout import show, styled

    rest = [styled(f"not in this artifact: {', '.join(absent)}")] if (absent := _absent(test)) else []
    style = "green" if test.passed else "bold red"
    summary = f"{test.headline()}; {test.backend} ({test.device}), {test.seconds:.0f} s"
    show(console, _faults(test, verbose=verbose), *rest, "", _variants(test, verbose=verbose), styled(summary, style))


def _absent(test: SelfTest) -> list[str]:
    return [outcome.kind for outcome in test.outcomes if not outcome.applies]


def _faults(test: SelfTest, *, verbose: bool) -> Table:
    from convkit.cli._layout import add_row, styled, table

    rows = table("part", "fault", "planted", "noticed by", "")
    for outcome in test.outcomes:
        for number, one in enumerate(outcome.planted):
            name = ("", "") if number else (outcome.part, outcome.kind)
            mark = styled("ok", "green") if one.caught else styled("MISSED", "bold red")
            add_row(rows, *name, one.where, one.by, mark)
        if verbose:
            for where in outcome.without_effect:
                add_row(
                    rows, "", "", styled(f"not planted, {outcome.kind} changes nothing here: {where}", "dim"), "", ""
                )
    return rows


def _variants(test: SelfTest, *, verbose: bool) -> Table:
    from convkit.cli._layout import add_row, styled, table

    rows = table("clean variants", "passed", "most of a limit that was used", "")
    for group in dict.fromkeys(variant.group for variant in test.variants):
        run = [variant for variant in test.variants if variant.group == group and variant.applies]
        if not run:
            continue
        good = [variant for variant in run if variant.passed]
        mark = styled("ok", "green") if len(good) == len(run) else styled("FALSE ALARM", "bold red")
        used = max((variant.used for variant in good), default=0.0)
        add_row(rows, group, f"{len(good)} of {len(run)}", f"{used:.0%}", mark)
        for variant in run:
            if not variant.passed:
                add_row(rows, f"  {variant.name}", "no", f"{variant.by} {variant.note}".strip(), "")
            elif verbose:
                add_row(rows, f"  {variant.name}", "yes", f"{variant.used:.0%}", "")
    if verbose:
        for variant in test.variants:
            if not variant.applies:
                add_row(rows, styled(f"  not here: {variant.name}: {variant.reason}", "dim"), "", "", "")
    return rows
