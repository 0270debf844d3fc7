"""Convert with the toy adapter, which must be installed, in child processes that a signal hits after some time.

Run as ``python killed.py FOLDER WEIGHTS SIGNAL@FRACTION…``: what is slow to import is imported once;
then for each event a child runs ``convkit convert`` into ``FOLDER/<event>/out`` and gets the signal
after that share of the time which a conversion takes. A line a child: event and exit status
(negative for a signal that ended it).
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from convkit import convert
from convkit.cli import execute


def child(folder: Path, weights: str) -> int:
    """Run the command line in a new process and return its id."""
    folder.mkdir()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        for stream in (1, 2):
            os.dup2(os.open(folder.with_suffix(folder.suffix + ".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os._exit(execute(["convert", "toy", "--weights", weights, "--output", str(folder / "out"), "--samples", "2"]))
    return pid


def wait(pid: int) -> int:
    """Return the exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, weights: str, events: list[str]) -> None:
    """Measure a conversion, then cut others short."""
    torch.set_num_threads(1)
    convert("toy", weights=weights, output=folder / "warm", samples=2)
    started = time.perf_counter()
    if wait(child(folder / "whole", weights)) != 0:
        raise SystemExit((folder / "whole.log").read_text())
    duration = time.perf_counter() - started
    for event in events:
        name, _, fraction = event.partition("@")
        pid = child(folder / event, weights)
        time.sleep(float(fraction) * duration)
        os.kill(pid, getattr(signal, name))
        sys.stdout.write(f"{event} {wait(pid)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
