"""The machine below TensorRT: system, packages, GPU, driver, and the compiler of kernels."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import convkit
from convkit.doctor._finding import package_version
from convkit.doctor._gpu import find_cards
from convkit.doctor.tensorrt._steps import FAILED, PASSED, SKIPPED, Steps
from convkit.errors import EnvironmentProblem

if TYPE_CHECKING:
    from convkit.backends.tensorrt import Gpu

__all__ = ["MACHINE", "Host", "examine_host"]

MACHINE = "machine"
PACKAGES = (
    "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "cupy-cuda13x", "cupy-cuda12x", "cupy",
    "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "onnx-graphsurgeon", "polygraphy",
)  # fmt: skip
_DECLARED = 'extern "C" __global__ void convkit_doctor(float *values) { values[threadIdx.x] = 0; }\n'


@dataclass(frozen=True)
class Host:
    """The GPU of this machine, if an engine can be tried on one, else why not; versions as (major, minor)."""

    gpu: Gpu | None
    no_gpu: str
    cuda: tuple[int, int] | None = None
    """The newest CUDA that the driver runs."""


def examine_host(steps: Steps, scratch: Path, *, plans_hold_kernels: bool) -> Host:
    """Make the steps of the machine; ``scratch`` is a folder for files.

    ``plans_hold_kernels`` says that a flavour is installed whose plans contain kernels of plugins as PTX.
    """
    with steps.step(MACHINE, "system") as step:
        found = {name: version for name in PACKAGES if (version := package_version(name))}
        system = f"{platform.system()} {platform.release()}, {platform.machine()}"
        python = f"{platform.python_implementation()} {platform.python_version()}"
        step.set(
            PASSED,
            f"convkit {convkit.__version__}, {python}, {system}",
            convkit=convkit.__version__,
            python=python,
            system=system,
            packages=found,
        )
    host = _gpu(steps)
    _nvrtc(steps, host, scratch, plans_hold_kernels=plans_hold_kernels)
    return host


def _gpu(steps: Steps) -> Host:
    from convkit.backends.tensorrt import Gpu

    host = Host(None, "the GPU was not found")
    with steps.step(MACHINE, "GPU") as step:
        cards = find_cards()
        step.details["nvidia_smi"] = {"state": cards.state, "text": cards.text}
        try:
            gpu = Gpu("cuda")
        except EnvironmentProblem as error:
            host = Host(None, "there is no GPU that CUDA can use here")
            # Cards that nvidia-smi shows and CUDA does not are a fault; no card is none.
            step.set(SKIPPED if cards.state == "missing" else FAILED, error.message, error.hint)
        else:
            number = int(gpu.driver)
            cuda = (number // 1000, number % 1000 // 10)
            text = f"{gpu.name}, compute capability {gpu.compute_capability}, driver up to CUDA {cuda[0]}.{cuda[1]}"
            step.set(PASSED, text, name=gpu.name, compute_capability=gpu.compute_capability, driver=gpu.driver)
            host = Host(gpu, "", cuda)
    return host


def _nvrtc(steps: Steps, host: Host, scratch: Path, *, plans_hold_kernels: bool) -> None:
    """Compile a kernel, and compare the language of its PTX with what the driver reads."""
    from convkit.cuda import Argument, Kernel, LaunchConfig, compile_variant, nvrtc_version, parse_ptx

    with steps.step(MACHINE, "NVRTC") as step:
        source = scratch / "doctor.cu"
        source.write_text(_DECLARED, encoding="utf-8")
        kernel = Kernel(
            "convkit_doctor", source, (Argument("values", "float32", output=True),),
            lambda: LaunchConfig((1, 1, 1), (1, 1, 1)),
        )  # fmt: skip
        try:
            image = compile_variant(kernel.variant(), "compute_75", "ptx")
            version = nvrtc_version()
        except EnvironmentProblem as error:
            if host.gpu is not None:
                raise
            step.set(SKIPPED, error.message, error.hint)
            return
        language = parse_ptx(image.text)["convkit_doctor"].version
        details: dict[str, Any] = {"nvrtc": version, "ptx": language, "driver": host.cuda}
        major, minor = map(int, version.split("."))
        if host.cuda is not None and (major, minor) > host.cuda:
            step.set(
                FAILED if plans_hold_kernels else PASSED,
                f"NVRTC {version} writes PTX {language}, which a driver for CUDA {host.cuda[0]}.{host.cuda[1]} cannot"
                " read: a plugin inside a plan of TensorRT would not load",
                f'pip install "nvidia-cuda-nvrtc=={host.cuda[0]}.{host.cuda[1]}.*", or install a newer driver.',
                **details,
            )
        elif host.cuda is None:
            step.set(PASSED, f"{version} compiles (PTX {language}); there is no driver to compare with", **details)
        else:
            step.set(PASSED, f"{version} compiles (PTX {language}), not newer than the driver", **details)
