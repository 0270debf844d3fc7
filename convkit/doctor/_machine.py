"""Processor, memory, disk and the cache of kernels."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from convkit.doctor._finding import Finding

__all__ = ["check_machine"]

SPARE_MEMORY = 3 * 10**9
"""Bytes that the conversion of a full-size network may take at its peak."""
SPARE_DISK = 10**9
"""Bytes that its artifact and temporary files may take."""


def check_machine() -> Iterator[Finding]:
    """Yield findings on cores, memory, the folders that are written to, and the cache of kernels."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("machine", "cores", "ok", str(cores))
    known = _memory()
    if known is not None:
        total, free = known
        text = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB of it free"
        enough = free >= SPARE_MEMORY
        remedy = "" if enough else f"Converting a large network may take {SPARE_MEMORY / 1e9:.0f} GB: close programs."
        yield Finding("machine", "memory", "ok" if enough else "problem", text, remedy)
    yield _folder("this folder", Path.cwd())
    yield _folder("temporary", Path(tempfile.gettempdir()))
    yield _kernel_cache()


def _memory() -> tuple[int, int] | None:
    """Return (total, free) bytes, neither above the container's limit; None where the system does not say."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    information = Path("/proc/meminfo")
    if information.is_file():
        available = re.search(r"MemAvailable:\s+(\d+) kB", information.read_text(encoding="ascii"))
        free = int(available.group(1)) * 1024 if available else free
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return (min(total, int(text)), min(free, int(text))) if text.isdigit() else (total, free)


def _folder(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{folder}, {free / 1e9:.1f} GB free"
    if not os.access(folder, os.W_OK):
        return Finding("machine", name, "problem", f"{text}, not writable", "Give an --output elsewhere.")
    if free < SPARE_DISK:
        return Finding("machine", name, "problem", text, "Free some space.")
    return Finding("machine", name, "ok", text)


def _kernel_cache() -> Finding:
    from convkit.cuda import cache_folder

    folder = cache_folder()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return Finding("machine", "kernel cache", "ok", str(folder))
    text = f"{folder} cannot be written: kernels are compiled anew by each process"
    return Finding("machine", "kernel cache", "problem", text, "Set CONVKIT_CACHE to a folder that can be written.")
