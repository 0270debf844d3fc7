"""The conditions of a benchmark: without them its numbers are worth nothing."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convkit.benchmarking._settings import MIN_RUNS, BenchSettings

__all__ = ["gpu_state", "protocol"]

PACKAGES = (
    "numpy", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt-rtx-cu13-libs",
    "cupy-cuda13x",
)  # fmt: skip
_GPU = (
    "name", "driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "temperature.gpu", "power.draw",
    "persistence_mode",
)  # fmt: skip
_FREQUENCY = Path("/sys/devices/system/cpu/cpu0/cpufreq")


def protocol(settings: BenchSettings, cores: Iterable[int], threads: int) -> dict[str, Any]:
    """Return the conditions by name, as a JSON object; call it before the first run."""
    pinned = list(cores)
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "platform": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu(),
            "cores": os.cpu_count() or 1,
            "clock": _clock(),
            "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        },
        "versions": _versions(),
        "threads": threads,
        "pinned_to_cores": pinned or None,
        "order": "in turns (A B A B), each engine in a process of its own that waits while others run",
        "warm_up_runs": settings.warm_up,
        "runs": {"at_least": MIN_RUNS, "at_most": settings.runs, "seconds": settings.seconds},
        "cool_down_s": settings.cool_down,
        "inputs": "the artifact's golden samples in turn; the network's are in memory before the clock starts",
        "clocks_not_locked": True,
    }


def gpu_state() -> list[dict[str, str]]:
    """Return name, driver, clocks, temperature and power of each GPU as nvidia-smi shows them; empty without it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={','.join(_GPU)}", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [dict(zip(_GPU, map(str.strip, line.split(",")), strict=False)) for line in shown.splitlines()]


def _versions() -> dict[str, str]:
    table = {"python": platform.python_version()}
    for name in ("convkit", *PACKAGES):
        try:
            table[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return table


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        found = re.search(r"^model name\s*: (.+)$", information.read_text(errors="replace"), flags=re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or "unknown"


def _clock() -> str:
    """Return the governor and the range of the processor's clock, where the system tells."""
    parts = []
    for name in ("scaling_governor", "scaling_min_freq", "scaling_max_freq"):
        file = _FREQUENCY / name
        if file.is_file():
            text = file.read_text(encoding="ascii").strip()
            parts.append(f"{int(text) / 1000:.0f} MHz" if text.isdigit() else text)
    return ", ".join(parts) or "not shown by the system"
