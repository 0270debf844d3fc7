"""Convert with the toy adapter, which must be installed, in child processes that a signal hits after some time.

Run as ``python killed.py FOLDER WEIGHTS SIGNAL FRACTION…``: what is slow to import is imported once;
then one child for each fraction runs ``convkit convert`` into ``FOLDER/<fraction>/out`` and gets the
signal after that share of the time which a conversion takes. A line a child: fraction, seconds,
exit status (negative for a signal).
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
            os.dup2(os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os._exit(execute(["convert", "toy", "--weights", weights, "--output", str(folder / "out"), "--samples", "2"]))
    return pid


def wait(pid: int) -> int:
    """Return the exit code of a child, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, weights: str, number: int, fractions: list[float]) -> None:
    """Measure a conversion, then cut others short."""
    torch.set_num_threads(1)
    convert("toy", weights=weights, output=folder / "warm", samples=2)
    started = time.perf_counter()
    if wait(child(folder / "whole", weights)) != 0:
        raise SystemExit(folder.joinpath("whole.log").read_text())
    duration = time.perf_counter() - started
    for fraction in fractions:
        pid = child(folder / str(fraction), weights)
        time.sleep(fraction * duration)
        os.kill(pid, number)
        sys.stdout.write(f"{fraction} {fraction * duration:.2f} {wait(pid)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], getattr(signal, sys.argv[3]), [float(text) for text in sys.argv[4:]])
