"""PTX for a plan: for which GPUs it is compiled, and whether the driver can read it."""

from __future__ import annotations

from convkit.cuda import Variant, check_signature, compile_variant, find_device, parse_ptx
from convkit.errors import EnvironmentProblem

__all__ = ["aot_ptx", "check_driver", "local_gpu", "newest_ptx", "ptx_target"]

_AMPERE = 80
"""No kernel gains from a newer target: the driver makes the code of the GPU from the PTX. Older ones lack bfloat16."""
_FIRST_PTX = {11: 70, 12: 80}
"""The PTX version, times ten, of the first release of each series of CUDA; from 13 on it is that of CUDA less 4."""
_LATE_12 = {6: 85, 7: 86, 8: 87, 9: 88}


def aot_ptx(variant: Variant, capability: int | None, driver: int | None) -> str:
    """Return the PTX of a kernel, whose parameters are those that are declared.

    ``capability`` is the GPU's (such as 86) and ``driver`` the CUDA version that its driver supports (such as 13000);
    None where there is no GPU.

    Raises:
        EnvironmentProblem: NVRTC is missing or newer than the driver, or the GPU is too old for the kernel.
    """
    image = compile_variant(variant, ptx_target(variant, capability), "ptx")
    check_signature(image, variant)
    if driver is not None:
        check_driver(parse_ptx(image.text)[variant.kernel.name].version, driver)
    return image.text


def ptx_target(variant: Variant, capability: int | None) -> str:
    """Return the target of the PTX: compute capability 8.0, or 7.5 where the GPU and the kernel are that old.

    So the plan runs wherever TensorRT lets it: also with the hardware compatibility ``ampere-plus``.
    """
    kernel = variant.kernel
    if capability is not None and not kernel.runs_on(capability):
        raise EnvironmentProblem(
            f"{kernel.name} needs {kernel.capabilities}; this GPU has {capability / 10:.1f}.",
            hint="Build on that GPU from the artifact: its graph then gets another kernel. Or use --set dcn=gather.",
        )
    return kernel.target(max(kernel.min_compute_capability, min(_AMPERE, capability or _AMPERE)), "ptx")


def check_driver(ptx_version: str, driver: int) -> None:
    """Raise `EnvironmentProblem` where a driver cannot read PTX of a version such as ``9.0``."""
    version = tuple(map(int, ptx_version.split(".")))
    newest = newest_ptx(driver)
    if version > newest:
        major, minor = driver // 1000, driver % 1000 // 10
        raise EnvironmentProblem(
            f"NVRTC writes PTX {ptx_version}; the driver supports CUDA {major}.{minor}, which reads PTX"
            f" {newest[0]}.{newest[1]} at most.",
            hint=f'Update the driver, or install an older NVRTC: pip install "nvidia-cuda-nvrtc=={major}.{minor}.*".',
        )


def newest_ptx(driver: int) -> tuple[int, int]:
    """Return the newest PTX version that a driver reads, by the CUDA version that it supports (such as 12040)."""
    major, minor = driver // 1000, driver % 1000 // 10
    if major >= 13:
        return major - 4, minor
    version = _LATE_12.get(minor, _FIRST_PTX[12] + minor) if major == 12 else _FIRST_PTX.get(major, 0) + minor
    return version // 10, version % 10


def local_gpu() -> tuple[int | None, int | None]:
    """Return compute capability and driver (see `aot_ptx`) of the first GPU; None twice where there is none."""
    try:
        cupy, number = find_device("cuda")
    except EnvironmentProblem:
        return None, None
    properties = cupy.cuda.runtime.getDeviceProperties(number)
    return properties["major"] * 10 + properties["minor"], int(cupy.cuda.runtime.driverGetVersion())
