"""Memory of this process, and of its GPU."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from convkit.benchmarking._result import Memory

__all__ = ["MemoryWatch"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class MemoryWatch:
    """Watches from now on; ``cupy`` is the module where the engine is on the GPU of that ``index``, else None."""

    def __init__(self, cupy: Any = None, index: int = 0) -> None:
        self._cupy, self._index = cupy, index
        self._free = self._device_free()
        self._loaded: int | None = None
        self._reset = False

    def loaded(self) -> None:
        """Note what is taken before the first run."""
        self._loaded = _status("VmRSS")

    def reset(self) -> None:
        """Forget the peak, where the system can."""
        with suppress(OSError):
            _RESET.write_text("5", encoding="ascii")
            self._reset = True

    def read(self) -> Memory:
        """Return what is taken, and the peak since the last reset."""
        free = self._device_free()
        device = None if self._free is None or free is None else self._free - free
        return Memory(self._loaded, _peak(), device, whole=not self._reset)

    def _device_free(self) -> int | None:
        if self._cupy is None:
            return None
        with self._cupy.cuda.Device(self._index):
            return int(self._cupy.cuda.runtime.memGetInfo()[0])


def _status(field: str) -> int | None:
    """Return a figure of Linux, in bytes."""
    with suppress(OSError):
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), flags=re.MULTILINE)
        return int(found.group(1)) * 1024 if found else None
    return None


def _peak() -> int | None:
    if (peak := _status("VmHWM")) is not None:
        return peak
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
