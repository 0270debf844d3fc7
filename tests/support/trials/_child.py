"""One case in a child process: how it ended, how long it took and how much memory it needed."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from convkit.errors import ConvkitError

SECONDS = 60
MOST_BYTES = 1 << 30
_REFUSED, _BROKEN = 40, 41
_CONTROL = {*range(32), *range(127, 160)} - {9, 10, 13}

Case = tuple[str, Callable[[], object], int]
"""A name, the work, and the bytes of the file that it reads."""


@dataclass
class Outcome:
    """How a case ended: ``done``, ``refused`` by an error for people, or an offence."""

    name: str
    end: str
    seconds: float
    bytes: int
    text: str = ""

    @property
    def offends(self) -> bool:
        return self.end not in ("done", "refused")


@dataclass
class Trial:
    """The cases of one kind: how many ended how, the worst figures, and the offenders."""

    kind: str
    ends: Counter[str] = field(default_factory=Counter)
    offenders: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0

    def run(self, cases: Iterator[Case], seconds: int = SECONDS) -> Trial:
        """Run all cases, one after the other; one that takes more than ``seconds`` offends."""
        gc.collect()
        gc.freeze()  # children then copy fewer pages
        idle = in_child(("idle", lambda: None, 0), 0).bytes
        for case in cases:
            outcome = in_child(case, idle, seconds)
            self.ends[outcome.end] += 1
            self.seconds, self.bytes = max(self.seconds, outcome.seconds), max(self.bytes, outcome.bytes)
            if outcome.offends:
                self.offenders.append(outcome)
        return self


def in_child(case: Case, idle: int, seconds: int = SECONDS) -> Outcome:
    """Run a case; ``idle`` is the memory of a child that does nothing, in bytes."""
    name, work, size = case
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        child = os.fork()
        if child == 0:
            os._exit(_child(work, output.fileno(), seconds))
        _, status, usage = os.wait4(child, 0)
        taken = time.perf_counter() - began
        output.seek(0)
        text = output.read(1 << 20).decode("utf-8", "replace")
    peak = usage.ru_maxrss * 1024 - idle
    return Outcome(name, _end(status, text, peak - size), taken, max(peak, 0), text[-2000:])


def _child(work: Callable[[], object], output: int, seconds: int) -> int:
    for stream in (1, 2):
        os.dup2(output, stream)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 4 * MOST_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds)
    try:
        code = work()
    except ConvkitError as error:
        sys.stderr.write(f"{error}\n")
        code = _REFUSED
    except BaseException:
        traceback.print_exc()
        code = _BROKEN
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


def _end(status: int, text: str, grown: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return "time" if number == signal.SIGALRM else f"signal {number}"
    code = os.WEXITSTATUS(status)
    if code == _BROKEN or "Traceback (most recent call last)" in text:
        return "traceback"
    if grown > MOST_BYTES:
        return "memory"
    if {ord(character) for character in text} & _CONTROL and code != _REFUSED:  # an error's text is escaped when shown
        return "control characters"
    return "done" if code == 0 else "refused"
