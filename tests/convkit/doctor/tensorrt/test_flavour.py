"""One flavour: packages that do not fit each other, libraries that do not load, plugins that do not register."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from convkit.backends import tensorrt
from convkit.backends.tensorrt import FLAVOURS, Flavour
from convkit.doctor.tensorrt import FAILED, PASSED, SKIPPED, Step, _flavour
from convkit.doctor.tensorrt._host import Host
from convkit.doctor.tensorrt._steps import Steps
from convkit.errors import EnvironmentProblem
from convkit.progress import silent

RTX = FLAVOURS["tensorrt-rtx"]
FULL = dataclasses.replace(FLAVOURS["tensorrt"], module="json", libraries="email")
"""Full TensorRT as if it were installed."""
ANY_RTX = dataclasses.replace(RTX, module="json", libraries="email")
"""TensorRT-RTX as if it were installed."""
NO_GPU = Host(None, "there is no GPU")
GPU = Host(SimpleNamespace(name="Card", target="sm89"), "", (13, 0))  # type: ignore[arg-type]
FINE = {"version": "1", "parser": 1, "builder": "", "runtime": "", "plugins": {}, "creators": []}


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> Any:
    real = importlib.metadata.version

    def change(table: Mapping[str, str]) -> None:
        def version(name: str) -> str:
            if name.startswith("tensorrt") and name not in table:
                raise importlib.metadata.PackageNotFoundError(name)
            return table.get(name) or real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return change


def examine(
    monkeypatch: pytest.MonkeyPatch, flavour: Flavour, host: Host, library: Any = FINE
) -> tuple[bool, dict[str, Step]]:
    def fresh(place: str, argument: Any, **how: Any) -> Any:
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(tensorrt, "in_fresh_process", fresh, raising=False)
    steps = Steps(silent)
    parses = _flavour.examine_flavour(steps, flavour, host)
    return parses, {step.name: step for step in steps.made}


def test_the_genuine_library_here():
    pytest.importorskip(RTX.module)
    steps = Steps(silent)
    assert _flavour.examine_flavour(steps, RTX, NO_GPU)
    table = {step.name: step for step in steps.made}
    assert [table[name].state for name in ("installed", "builder", "runtime", "plugins")] == [
        PASSED, PASSED, SKIPPED, PASSED,
    ]  # fmt: skip
    assert ["ROIAlign_TRT", "2", ""] in table["plugins"].details["creators"]
    assert RTX.version in table["builder"].text


def test_bindings_without_libraries(monkeypatch):
    parses, steps = examine(monkeypatch, dataclasses.replace(RTX, libraries="no_such_package"), NO_GPU)
    assert not parses
    assert steps["installed"].state == FAILED
    assert list(steps) == ["installed"]


@pytest.mark.parametrize(
    ("found", "numpy", "reason"),
    [
        ({"tensorrt-cu13-bindings": "11.4.0", "tensorrt-cu13-libs": "11.3.0"}, "2.3.5", "two versions"),
        ({"tensorrt-cu13-bindings": "10.16.1", "tensorrt-cu13-libs": "10.16.1"}, "2.4.0", "numpy 2.4.0"),
        ({"tensorrt-cu14-bindings": "12.0", "tensorrt-cu14-libs": "12.0"}, "2.4.0", "are for CUDA 14"),
        ({"tensorrt-cu13-bindings": "10.16.1", "tensorrt-cu13-libs": "10.16.1"}, "2.3.5", ""),
        ({"tensorrt-cu12-bindings": "11.4.0", "tensorrt-cu12-libs": "11.4.0"}, "2.4.0", ""),
    ],
)
def test_packages_that_do_not_fit(found, numpy, reason, versions, monkeypatch):
    versions({**found, "numpy": numpy})
    flavour = dataclasses.replace(FULL, distributions=tuple(found))
    _, steps = examine(monkeypatch, flavour, GPU)
    assert steps["installed"].state == (FAILED if reason else PASSED)
    assert reason in steps["installed"].text
    assert steps["installed"].details["versions"] == found


def test_numpy_is_no_matter_for_rtx(versions, monkeypatch):
    versions(dict.fromkeys(RTX.distributions, "1.7.1.116") | {"numpy": "2.9.0"})
    _, steps = examine(monkeypatch, ANY_RTX, NO_GPU)
    assert steps["installed"].state == PASSED


def test_full_tensorrt_without_a_gpu_is_skipped(monkeypatch):
    parses, steps = examine(monkeypatch, FULL, NO_GPU, AssertionError("it must not be loaded"))
    assert not parses
    assert {steps[name].state for name in ("builder", "runtime", "plugins")} == {SKIPPED}
    assert "there is no GPU" in steps["builder"].text


@pytest.mark.parametrize(
    ("library", "step", "parses"),
    [
        ({**FINE, "builder": "factory function returned nullptr"}, "builder", False),
        ({**FINE, "runtime": "CUDA initialization failure"}, "runtime", True),
        ({**FINE, "plugins": {"a:b": "a plugin of that name is there"}}, "plugins", True),
        (EnvironmentProblem("The process was ended by SIGABRT."), "builder", False),
    ],
)
def test_a_library_that_does_not_work(library, step, parses, monkeypatch):
    found, steps = examine(monkeypatch, FULL, GPU, library)
    assert steps[step].state == FAILED
    assert found is parses


def test_plugins_of_nvidia_that_are_not_there_are_named(monkeypatch):
    _, steps = examine(monkeypatch, FULL, GPU)
    assert steps["plugins"].state == PASSED
    assert "ModulatedDeformConv2d 2 is not there" in steps["plugins"].text
    found = {**FINE, "creators": [["ModulatedDeformConv2d", "2", ""]]}
    _, steps = examine(monkeypatch, FULL, GPU, found)
    assert "not there" not in steps["plugins"].text


def test_our_plugins_are_registered_the_probe_of_the_argument_order_with_full_tensorrt_only(monkeypatch):
    jobs = []

    def fresh(place: str, argument: Any, **how: Any) -> Any:
        jobs.append(argument)
        return FINE

    monkeypatch.setattr(tensorrt, "in_fresh_process", fresh, raising=False)
    for flavour, host in ((FULL, GPU), (ANY_RTX, NO_GPU)):
        _flavour.examine_flavour(Steps(silent), flavour, host)
    full, rtx = jobs
    assert _flavour.ARGUMENT_ORDER in full["plugins"]
    assert _flavour.ARGUMENT_ORDER not in rtx["plugins"]
    assert (full["runtime"], rtx["runtime"]) == (True, False)
