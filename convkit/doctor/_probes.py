"""Questions put to the machine: cheap, without heavy imports, and answered even where things are broken."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["cuda_driver", "memory", "package_version", "run_program", "torch_build"]


def package_version(distribution: str) -> str:
    """Return the version of an installed distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def torch_build() -> str:
    """Return what PyTorch was built for, read from the file that it generates at build time."""
    spec = importlib.util.find_spec("torch")
    folders = spec.submodule_search_locations if spec else None
    file = Path(next(iter(folders)), "version.py") if folders else Path()
    if not file.is_file():
        return "build unknown"
    match = re.search(r"^(cuda|hip)\b.*= *['\"]([\d.]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return f"{ {'cuda': 'CUDA', 'hip': 'ROCm'}[match.group(1)] } {match.group(2)} build" if match else "CPU build"


def cuda_driver() -> tuple[int, int] | None:
    """Return the CUDA version that the driver supports, (0, 0) if it fails, None without a driver."""
    import ctypes

    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return 0, 0
    return number.value // 1000, number.value % 1000 // 10


def memory() -> tuple[int, int] | None:
    """Return (total, free) bytes, both no more than the container's limit; None where the system does not tell."""
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


def run_program(command: list[str], timeout: float) -> tuple[int, str]:
    """Run a program without input; return its exit code and what it wrote to both streams."""
    try:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"{Path(command[0]).name} did not answer within {timeout:.0f} s"
    except OSError as error:
        return -1, str(error)
    return result.returncode, result.stdout.decode(errors="replace")
