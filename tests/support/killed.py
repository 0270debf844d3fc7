"""Convert with the toy adapter, which must be installed, in child processes that a signal hits at a known moment.

Run as ``python killed.py FOLDER WEIGHTS SIGNAL@MOMENT…``: what is slow to import is imported once;
then for each event a child runs ``convkit convert`` into ``FOLDER/<event>/out`` and sends itself the
signal at that moment: the beginning of a step (part of its name), or ``half of FILE``, when the
first half of that file is written. A line a child: event and exit status (negative for a signal
that ended it).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from support.exporter import quick_exports
from support.scenes import quick_scenes

from convkit import convert, synthetic_scenes
from convkit.cli import _console, main

HALF = "half of "


def child(folder: Path, weights: str, signal_number: int, moment: str) -> int:
    """Run the command line in a new process that sends itself a signal; return its exit status."""
    folder.mkdir()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for stream in (1, 2):
            os.dup2(os.open(folder.with_suffix(folder.suffix + ".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background may inherit it ignored
        arm(lambda: os.kill(os.getpid(), signal_number), moment)
        try:
            main(["convert", "toy", "--weights", weights, "--output", str(folder / "out"), "--samples", "2"])
        except SystemExit as end:
            os._exit(int(end.code or 0))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def arm(strike: Callable[[], None], moment: str) -> None:
    """Call ``strike`` when the step begins or half of the file is written."""
    if not moment.startswith(HALF):
        step = _console._Steps.__call__

        def announce(self: Any, name: str, done: int = 0, total: int = 0) -> None:
            step(self, name, done, total)
            if moment in name:
                strike()

        _console._Steps.__call__ = announce  # type: ignore[method-assign]
        return

    def halved(write: Callable[..., int]) -> Callable[..., int]:
        def writing(self: Path, data: Any, *args: Any, **kwargs: Any) -> int:
            if self.name == moment.removeprefix(HALF):
                write(self, data[: len(data) // 2], *args, **kwargs)
                strike()
            return write(self, data, *args, **kwargs)

        return writing

    Path.write_bytes = halved(Path.write_bytes)  # type: ignore[method-assign]
    Path.write_text = halved(Path.write_text)  # type: ignore[method-assign]


def strike_all(folder: Path, weights: str, events: list[str]) -> None:
    """Convert once to import and compile everything, then cut others short."""
    quick_exports()
    synthetic_scenes(1)
    quick_scenes()
    torch.set_num_threads(1)
    convert("toy", weights=weights, output=folder / "warm", samples=2)
    for event in events:
        name, _, moment = event.partition("@")
        sys.stdout.write(f"{event}\t{child(folder / event, weights, getattr(signal, name), moment)}\n")


if __name__ == "__main__":
    strike_all(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
