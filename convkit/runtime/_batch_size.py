"""The batch that memory has room for, estimated from small ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Memory", "fitting_batch", "memory_of"]

SPARE = 2
"""Of the memory that is free, one part in so many may be taken: estimates err, and other processes grow."""
TRIED = 8
"""How many times the smallest batch is tried at most."""


class Memory(NamedTuple):
    """Functions that return what this process has taken at most so far, and what is free, in bytes."""

    taken: Callable[[], int]
    free: Callable[[], int]


def fitting_batch(trial: Callable[[int], object], memory: Memory, least: int, most: int) -> int:
    """Return the largest batch between two sizes that memory has room for; ``trial`` runs one of a size.

    An item takes its part of all that batches took so far, with what the model takes once among it; or the growth from
    the batch before, where that is more. Two sizes are run, and up to `TRIED` times the smallest one as long as fewer
    seem to fit than are allowed. Where the system does not say, it is the largest batch.
    """
    before = last = memory.taken()
    size, tried = least, 0
    while True:
        trial(size)
        taken = memory.taken()
        item = max((taken - before) / size, (taken - last) / (size - tried), 1)
        fits = max(size, int(min(most, (memory.free() + taken - before) / SPARE // item)))
        if fits == size or (tried and (fits == most or size >= TRIED * least)):
            return fits
        size, tried, last = least + 1 if not tried else min(2 * size, fits), size, taken


def memory_of(device: str) -> Memory:
    """Return the memory in which a session on that device works."""
    name, _, index = device.partition(":")
    if name != "cuda":
        _forget_peak()
        return Memory(_taken, _free)
    from convkit.cuda import find_device

    cupy, number = find_device(f"cuda:{index or 0}")

    def free() -> int:
        with cupy.cuda.Device(number):
            return int(cupy.cuda.runtime.memGetInfo()[0])

    return Memory(lambda: -free(), free)


def _taken() -> int:
    """Return the most memory that this process has had since `_forget_peak`; 0 on Windows."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _free() -> int:
    """Return what this process may still take: of the machine, and of its container where that has a limit.

    Where neither is known, as on Windows and macOS, that is a gigabyte.
    """
    known = []
    with suppress(OSError, ValueError):
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        if found:
            known.append(int(found[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):
        limit, current = (int((group / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
        known.append(limit - current + (int(cached[1]) if cached else 0))
    return min(known) if known else 10**9
