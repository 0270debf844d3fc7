"""Where the command line writes: results to stdout, progress and notes to stderr, colour only on a terminal."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from convkit.errors import ConvkitError

__all__ = ["emit", "emit_json", "error_text", "printable", "set_verbosity", "stderr", "stdout", "steps"]

LINE_SECONDS = 10.0
UNBROKEN = 10_000
"""Columns of an output that is no terminal, so that no row of a table is ever broken there."""

_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")
"""Control characters but tab and newline, and what turns the direction of text or ends its line."""

_verbosity = 0
"""How much this process writes to stderr: -1 errors only, 0 progress, 1 the time of each step too."""


def set_verbosity(*, quiet: bool = False, verbose: bool = False) -> None:
    """Set how much is written to stderr."""
    global _verbosity
    _verbosity = -1 if quiet else int(verbose)


def stdout() -> Console:
    """Return a console for results; plain, unbroken lines if it is no terminal."""
    return _console()


def stderr() -> Console:
    """Return a console for progress and notes, which writes nothing in quiet mode."""
    return _console(stderr=True, quiet=_verbosity < 0)


def _console(**options: Any) -> Console:
    from convkit.cli._printer import Printer

    console = Printer(highlight=False, **options)
    if not console.is_terminal:
        console.width, console.soft_wrap = UNBROKEN, True
    return console


def printable(text: str) -> str:
    """Return a text with its control characters as escapes, so that a name from a file cannot steer the terminal.

    Among them are those that turn the direction of a line or end it; tabs and newlines stay.
    """
    return _CONTROL.sub(lambda match: f"\\x{code:02x}" if (code := ord(match[0])) < 256 else f"\\u{code:04x}", text)


def emit(text: str) -> None:
    """Write one line of result to stdout."""
    _write(printable(text).replace("\n", "\\n"))


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value to stdout as JSON, with escapes where stdout cannot encode it; ``indent`` None: on one line."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    _write(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def error_text(error: ConvkitError) -> str:
    """Return an error as it is shown to people: the fact, the stage that found it, then the remedy."""
    stage = f"\n  stage: {error.stage}" if error.stage else ""
    return printable(f"error: {error.message}{stage}" + (f"\n  hint: {error.hint}" if error.hint else ""))


class _Steps:
    """Shows the current step and how long the work takes.

    On a terminal it is a bar that disappears when the work is done; elsewhere a line for each step, and for a step
    that counts something at most one line every ten seconds.
    """

    def __init__(self, title: str) -> None:
        self.console = stderr()
        self.title = title
        self.started = self.step_started = self.line_written = time.perf_counter()
        self.current = ""
        self.bar = self._bar() if self.console.is_terminal and _verbosity >= 0 else None
        self.task = self.bar.add_task(title, total=None) if self.bar else None

    def _bar(self) -> Progress:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True)

    def __call__(self, step: str, done: int = 0, total: int = 0) -> None:
        if step != self.current:
            self._finish()
            self.current, self.step_started = step, time.perf_counter()
            self._line(step)
        elif done and time.perf_counter() - self.line_written > LINE_SECONDS:
            self._line(f"{step}: {done} of {total}" if total else f"{step}: {done}{self._rate(done)}")
        if self.bar and self.task is not None:
            counted = (
                f"{self.title}: {step} {done}{self._rate(done)}" if done and not total else f"{self.title}: {step}"
            )
            self.bar.update(self.task, description=counted, completed=done, total=total or None)

    def _rate(self, done: int) -> str:
        seconds = time.perf_counter() - self.step_started
        return f" ({done / seconds:.1f} a second)" if seconds > 0 else ""

    def _line(self, text: str) -> None:
        if not self.bar:
            self.console.print(printable(f"{self.title}: {text}"), markup=False)
            self.line_written = time.perf_counter()

    def _finish(self) -> None:
        if self.current and _verbosity > 0:
            self.console.print(f"  {self.current}: {time.perf_counter() - self.step_started:.2f} s", markup=False)
        self.current = ""

    def __enter__(self) -> _Steps:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._finish()
        if self.bar:
            self.bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.started


@contextmanager
def steps(title: str) -> Iterator[_Steps]:
    """Show the steps of a long work on stderr: ``with steps("convert") as step: step("exporting")``."""
    with _Steps(title) as shown:
        yield shown
