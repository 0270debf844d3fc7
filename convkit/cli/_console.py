"""Where the command line writes: results to stdout, talk to stderr, colour only on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from convkit.errors import ConvkitError

__all__ = ["Talk", "emit", "emit_json", "error_text", "stderr", "stdout", "talk"]


LINE_SECONDS = 10.0
PIPE_WIDTH = 200
"""Columns of an output that is no terminal: wide enough that no table row breaks."""


class Talk:
    """How much is said on stderr: -1 quiet, 0 normal, 1 verbose. One instance a process."""

    level = 0


def stdout() -> Console:
    """Return a console for results (tables); plain text when it is no terminal."""
    from rich.console import Console

    return _wide_on_a_pipe(Console(highlight=False))


def stderr() -> Console:
    """Return a console for talk."""
    from rich.console import Console

    return _wide_on_a_pipe(Console(stderr=True, highlight=False, quiet=Talk.level < 0))


def _wide_on_a_pipe(console: Console) -> Console:
    if not console.is_terminal:
        console.width, console.soft_wrap = PIPE_WIDTH, True
    return console


def emit(text: str) -> None:
    """Write one line of result to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value to stdout as JSON, with escapes where stdout cannot encode it; ``indent`` None: on one line."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    emit(text)


def error_text(error: ConvkitError) -> str:
    """Return an error as it is shown to people: the fact, then the remedy."""
    return f"error: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else "")


class _Steps:
    """Shows the current step and how long the work takes.

    On a terminal a bar that goes away when the work is done; elsewhere a line a step, and for
    steps that count something no more than a line every ten seconds.
    """

    def __init__(self, title: str) -> None:
        self.console = stderr()
        self.title = title
        self.started = self.step_started = self.line_written = time.perf_counter()
        self.current = ""
        self.bar = self._bar() if self.console.is_terminal and Talk.level >= 0 else None
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
        elif total and time.perf_counter() - self.line_written > LINE_SECONDS:
            self._line(f"{step}: {done} of {total}")
        if self.bar and self.task is not None:
            self.bar.update(self.task, description=f"{self.title}: {step}", completed=done, total=total or None)

    def _line(self, text: str) -> None:
        if not self.bar:
            self.console.print(f"{self.title}: {text}", markup=False)
            self.line_written = time.perf_counter()

    def _finish(self) -> None:
        if self.current and Talk.level > 0:
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
def talk(title: str) -> Iterator[_Steps]:
    """Show the steps of a long work on stderr: ``with talk("convert") as step: step("exporting")``."""
    with _Steps(title) as steps:
        yield steps
