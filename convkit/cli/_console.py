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

    from convkit.errors import ConvkitError

__all__ = ["Talk", "emit", "emit_json", "error_text", "stderr", "stdout", "talk"]


class Talk:
    """How much is said on stderr: -1 quiet, 0 normal, 1 verbose. One instance a process."""

    level = 0


def stdout() -> Console:
    """Return a console for results (tables); plain text when it is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def stderr() -> Console:
    """Return a console for talk."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty(), quiet=Talk.level < 0)


def emit(text: str) -> None:
    """Write one line of result to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """Write a value to stdout as JSON; ``indent`` None puts it on one line."""
    emit(json.dumps(value, indent=indent, ensure_ascii=False))


def error_text(error: ConvkitError) -> str:
    """Return an error as it is shown to people: the fact, then the remedy."""
    return f"error: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else "")


class _Steps:
    """Shows the current step with the time it takes; on a terminal as a spinner that goes away."""

    def __init__(self, title: str) -> None:
        self.console = stderr()
        self.title = title
        self.started = self.step_started = time.perf_counter()
        self.current = ""
        self.status = self.console.status(title) if self.console.is_terminal else None

    def __call__(self, step: str) -> None:
        self._finish()
        self.current, self.step_started = step, time.perf_counter()
        if self.status:
            self.status.update(f"{self.title}: {step}")
        elif Talk.level >= 0:
            self.console.print(f"{self.title}: {step}")

    def _finish(self) -> None:
        if self.current and Talk.level > 0:
            self.console.print(f"  {self.current}: {time.perf_counter() - self.step_started:.2f} s")
        self.current = ""

    def __enter__(self) -> _Steps:
        if self.status:
            self.status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.status:
            self.status.stop()
        self._finish()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.started


@contextmanager
def talk(title: str) -> Iterator[_Steps]:
    """Show the steps of a long work on stderr: ``with talk("convert") as step: step("exporting")``."""
    with _Steps(title) as steps:
        yield steps
