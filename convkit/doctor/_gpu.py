"""The GPU, its driver, and TensorRT."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator

from convkit.doctor._finding import Finding, package_version, run_program

__all__ = ["NUMPY_TOO_NEW", "check_gpu", "find_cards"]

_NO_GPU = "convkit converts and proves on the CPU"
NUMPY_TOO_NEW = "2.4"
"""The first NumPy whose arrays of one element TensorRT before 11 cannot read as the attributes of Python plugins."""


def check_gpu() -> Iterator[Finding]:
    """Yield findings on NVIDIA GPUs, the CUDA driver and TensorRT."""
    yield find_cards()
    yield _driver()
    yield from _tensorrt()


def find_cards() -> Finding:
    """Return the finding on NVIDIA GPUs: what nvidia-smi shows, missing where there is no such tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("GPU", "NVIDIA GPU", "missing", f"none found; {_NO_GPU}")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    code, lines = run_program(query, timeout=10)
    if code == 0 and lines:
        return Finding("GPU", "NVIDIA GPU", "ok", "; ".join(", driver ".join(line.rsplit(", ", 1)) for line in lines))
    text = lines[0] if lines else f"nvidia-smi failed with code {code}"
    return Finding("GPU", "NVIDIA GPU", "problem", text, "Reboot; if that does not help, reinstall the NVIDIA driver.")


def _driver() -> Finding:
    import ctypes

    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Finding("GPU", "CUDA driver", "missing", f"no driver library; {_NO_GPU}")
    number = ctypes.c_int(0)
    if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
        text = "the library loads but does not answer"
        return Finding("GPU", "CUDA driver", "problem", text, "Reinstall the NVIDIA driver and restart.")
    return Finding("GPU", "CUDA driver", "ok", f"up to CUDA {number.value // 1000}.{number.value % 1000 // 10}")


def _tensorrt() -> Iterator[Finding]:
    from packaging.version import InvalidVersion, Version

    if importlib.util.find_spec("tensorrt") is None:
        remedy = 'pip install "convkit[tensorrt]"' if sys.platform == "linux" else ""
        yield Finding("GPU", "TensorRT", "missing", "not installed", remedy)
        return
    code, lines = run_program([sys.executable, "-c", "import tensorrt; print(tensorrt.__version__)"], timeout=60)
    last = lines[-1] if lines else f"exit code {code}"
    if code != 0:
        remedy = "`convkit doctor LOG` explains known errors; the library must be on LD_LIBRARY_PATH"
        yield Finding("GPU", "TensorRT", "problem", f"installed but does not load: {last}", remedy)
        return
    yield Finding("GPU", "TensorRT", "ok", last)
    numpy = package_version("numpy")
    try:
        unfit = Version(last).major < 11 and Version(numpy) >= Version(NUMPY_TOO_NEW)
    except InvalidVersion:
        return
    if unfit:
        text = f"TensorRT {last} cannot read the attributes of Python plugins with numpy {numpy}"
        yield Finding("GPU", "numpy", "problem", text, 'pip install "numpy<2.4", or TensorRT 11')
