"""What the proof of a backend on a device depends on besides the artifact."""

from __future__ import annotations

from convkit.cuda import find_device

__all__ = ["gpu_facts"]


def gpu_facts(device: str) -> dict[str, str]:
    """Return name and compute capability of a GPU (``cuda``, ``cuda:1``), and the CUDA version of its driver.

    Raises:
        EnvironmentProblem: ``device`` is no GPU, cupy is missing, or the driver shows no such GPU.
    """
    cupy, index = find_device(device)
    properties = cupy.cuda.runtime.getDeviceProperties(index)
    return {
        "gpu": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "driver": str(cupy.cuda.runtime.driverGetVersion()),
    }
