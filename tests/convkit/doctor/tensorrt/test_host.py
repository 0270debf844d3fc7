"""The machine below TensorRT: what of GPU, driver and compiler is a fault, and what is merely not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convkit import cuda
from convkit.backends import tensorrt
from convkit.doctor import Finding
from convkit.doctor.tensorrt import FAILED, PASSED, SKIPPED, Step, _host
from convkit.doctor.tensorrt._steps import Steps
from convkit.errors import EnvironmentProblem
from convkit.progress import silent


def examine(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    gpu: Any = None,
    cards: str = "missing",
    nvrtc: str = "13.0",
    plans: bool = True,
) -> tuple[_host.Host, dict[str, Step]]:
    def find(device: str) -> Any:
        if gpu is None:
            raise EnvironmentProblem("no driver", hint="install one")
        return gpu

    monkeypatch.setattr(tensorrt, "Gpu", find, raising=False)
    monkeypatch.setattr(_host, "find_cards", lambda: Finding("GPU", "NVIDIA GPU", cards, "as nvidia-smi says"))
    monkeypatch.setattr(cuda, "nvrtc_version", lambda: nvrtc)
    steps = Steps(silent)
    host = _host.examine_host(steps, folder, plans_hold_kernels=plans)
    return host, {step.name: step for step in steps.made}


def card(driver: str = "13000") -> Any:
    return SimpleNamespace(name="Card", compute_capability="8.9", target="sm89", driver=driver)


def test_no_card_is_skipped(monkeypatch, tmp_path):
    host, steps = examine(monkeypatch, tmp_path)
    assert host.gpu is None
    assert host.no_gpu
    assert (steps["GPU"].state, steps["NVRTC"].state) == (SKIPPED, PASSED)
    assert "no driver to compare with" in steps["NVRTC"].text


def test_a_card_that_cuda_does_not_see_is_a_fault(monkeypatch, tmp_path):
    host, steps = examine(monkeypatch, tmp_path, cards="ok")
    assert host.gpu is None
    assert steps["GPU"].state == FAILED
    assert steps["GPU"].details["nvidia_smi"]["text"] == "as nvidia-smi says"


def test_the_card_and_its_driver(monkeypatch, tmp_path):
    host, steps = examine(monkeypatch, tmp_path, gpu=card("12080"), cards="ok", nvrtc="12.8")
    assert host.cuda == (12, 8)
    assert steps["GPU"].text == "Card, compute capability 8.9, driver up to CUDA 12.8"
    assert steps["NVRTC"].state == PASSED


@pytest.mark.parametrize(
    ("nvrtc", "plans", "state"), [("13.1", True, FAILED), ("13.1", False, PASSED), ("13.0", True, PASSED)]
)
def test_nvrtc_newer_than_the_driver_matters_to_plans_with_kernels(nvrtc, plans, state, monkeypatch, tmp_path):
    _, steps = examine(monkeypatch, tmp_path, gpu=card(), cards="ok", nvrtc=nvrtc, plans=plans)
    assert steps["NVRTC"].state == state
    assert ("nvidia-cuda-nvrtc==13.0.*" in steps["NVRTC"].remedy) is (nvrtc != "13.0")


@pytest.mark.parametrize(("gpu", "state"), [(card(), FAILED), (None, SKIPPED)])
def test_no_nvrtc_is_a_fault_where_a_gpu_is(gpu, state, monkeypatch, tmp_path):
    def fail(*arguments: Any) -> Any:
        raise EnvironmentProblem("NVRTC is missing.", hint="install it")

    monkeypatch.setattr(cuda, "compile_variant", fail)
    _, steps = examine(monkeypatch, tmp_path, gpu=gpu)
    assert (steps["NVRTC"].state, steps["NVRTC"].remedy) == (state, "install it")


def test_versions_are_in_the_report(monkeypatch, tmp_path):
    _, steps = examine(monkeypatch, tmp_path)
    details = steps["system"].details
    assert {"torch", "onnx", "numpy"} <= details["packages"].keys()
    assert details["convkit"]
    assert details["python"].startswith("CPython")
