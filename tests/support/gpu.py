"""Whether this machine can run kernels."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1)
def missing_gpu() -> str:
    """Return why there is no GPU to use, or an empty string. Only cupy is imported, and only by the first call."""
    try:
        from cupy.cuda import runtime

        return "" if runtime.getDeviceCount() else "there is no GPU"
    except (ImportError, OSError, RuntimeError) as error:
        return f"there is no GPU: {error}"
