"""One GPU by its name (``cuda``, ``cuda:1``), through cupy."""

from __future__ import annotations

from typing import Any

from convkit.errors import EnvironmentProblem

__all__ = ["find_device"]


def find_device(device: str) -> tuple[Any, int]:
    """Return the module cupy and the number of a GPU.

    Raises:
        EnvironmentProblem: ``device`` is no GPU, cupy is missing, or the driver shows no such GPU.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index.isdigit() or not index):
        raise EnvironmentProblem(f"{device!r} is not a GPU.", hint="Use --device cuda or cuda:N.")
    try:
        import cupy
    except ImportError as error:
        raise EnvironmentProblem(
            f"The device {device!r} needs cupy, which is not installed.", hint='pip install "convkit[cuda]"'
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise EnvironmentProblem(
            f"There is no CUDA GPU for {device!r}: {str(error).splitlines()[0]}.",
            hint="Use --device cpu where that is possible; `convkit doctor` shows what the driver says.",
        ) from error
    number = int(index or 0)
    if number >= count:
        raise EnvironmentProblem(
            f"There is no {device!r}: the CUDA driver shows {count} GPUs.", hint="Use one of the lower numbers."
        )
    return cupy, number
