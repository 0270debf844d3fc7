"""Faults of the system: a library that kills a process or fails a call at the n-th change of files, preloaded."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

BEFORE, AFTER, ONCE, EVER = 1, 2, 3, 4
"""A signal right before or after the change; an errno for it, or for it and all changes after it."""


def build_library(folder: Path) -> Path:
    """Compile the library into a folder and return its file."""
    library = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)
    return library


def preloaded(library: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process with the library."""
    return {**os.environ, "LD_PRELOAD": str(library), **more}


def struck(work: Callable[[], object], number: int, kind: int, value: int) -> tuple[int, int]:
    """Run ``work`` in a child whose change ``number`` is hit; return its wait status and the changes it reached.

    A child that is not ended by a signal exits 0 if ``work`` returned and 1 if it raised. This process must have the
    library preloaded.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        library = ctypes.CDLL(None)
        library.faults_arm(number, kind, value)
        try:
            work()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{number}: {error!r}\n")
        reached = library.faults_count()
        library.faults_arm(0, 0, 0)
        os.write(writing, str(reached).encode())
        os._exit(code)
    os.close(writing)
    status = os.waitpid(child, 0)[1]
    reached = int(os.read(reading, 16) or -1)
    os.close(reading)
    return status, reached
