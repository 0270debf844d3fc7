"""One flavour of TensorRT: do its packages fit each other, do its libraries load and work, what is registered."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import importlib.util
import re
from typing import TYPE_CHECKING, Any

from convkit.backends import own_plugins
from convkit.doctor._finding import package_version
from convkit.doctor._gpu import NUMPY_TOO_NEW
from convkit.doctor.tensorrt._host import Host
from convkit.doctor.tensorrt._steps import FAILED, PASSED, SKIPPED, Steps
from convkit.model import Target
from convkit.plugins import manager

if TYPE_CHECKING:
    from convkit.backends.tensorrt import Flavour

__all__ = ["ARGUMENT_ORDER", "examine_flavour", "is_installed"]

ARGUMENT_ORDER = "convkit.backends.tensorrt:register_argument_order"
_CUBLAS = ("nvidia-cublas", "nvidia-cublas-cu13", "nvidia-cublas-cu12")


def is_installed(flavour: Flavour) -> bool:
    """Return whether the bindings are there; whether they work is another question."""
    return importlib.util.find_spec(flavour.module) is not None


def examine_flavour(steps: Steps, flavour: Flavour, host: Host) -> bool:
    """Make the steps up to the registry; return whether a model can be parsed here."""
    name = flavour.name
    with steps.step(name, "installed") as step:
        flavour.require()
        _check_versions(step, flavour, host)
    if steps.made[-1].state == FAILED and flavour.problem():
        return False
    if not flavour.targets:
        _check_cublas(steps, name)
        if host.gpu is None:
            for what in ("builder", "runtime", "plugins"):
                steps.note(name, what, SKIPPED, host.no_gpu)
            return False
    return _check_library(steps, flavour, host)


def _check_versions(step: Any, flavour: Flavour, host: Host) -> None:
    from packaging.version import Version

    versions = flavour.versions()
    step.details["versions"] = versions
    text = ", ".join(f"{distribution} {version}" for distribution, version in versions.items())
    parts = {kind: version for distribution, version in versions.items()
             for kind in ("bindings", "libs") if distribution.endswith(f"-{kind}")}  # fmt: skip
    if len(set(parts.values())) > 1:
        step.set(FAILED, f"bindings and libraries are of two versions: {text}", flavour.remedy)
        return
    numpy = package_version("numpy")
    old = bool(flavour.version) and not flavour.targets and Version(flavour.version).major < 11
    if old and Version(numpy) >= Version(NUMPY_TOO_NEW):
        reason = f"{flavour.title} {flavour.version} cannot read the attributes of Python plugins with numpy {numpy}"
        step.set(FAILED, reason, f'pip install "numpy<{NUMPY_TOO_NEW}", or TensorRT 11')
        return
    needed = max((int(match[1]) for name in versions if (match := re.search(r"-cu(\d+)-", name))), default=0)
    if host.cuda is not None and needed > host.cuda[0]:
        reason = f"{text} are for CUDA {needed}; the driver runs CUDA {host.cuda[0]}.{host.cuda[1]} at most"
        step.set(FAILED, reason, f"Install a newer driver, or the packages for CUDA {host.cuda[0]}.")
        return
    step.set(PASSED, text)


def _check_cublas(steps: Steps, section: str) -> None:
    """Look for cuBLAS, which TensorRT's own DeformConv loads when it runs."""
    with steps.step(section, "cuBLAS") as step:
        found = next((f"{name} {version}" for name in _CUBLAS if (version := package_version(name))), "")
        found = found or ctypes.util.find_library("cublas") or ""
        if found:
            step.set(PASSED, found)
        else:
            step.set(
                SKIPPED, "not found; only TensorRT's own DeformConv needs it (dcn=native)", "pip install nvidia-cublas"
            )


def _check_library(steps: Steps, flavour: Flavour, host: Host) -> bool:
    from convkit.backends.tensorrt import in_fresh_process

    section = flavour.name
    own = list(dict.fromkeys(plugin.register for plugin in own_plugins(section)))
    if not flavour.targets:
        own.append(ARGUMENT_ORDER)
    job = {"flavour": section, "plugins": own, "runtime": host.gpu is not None}
    found: dict[str, Any] = {}
    with steps.step(section, "builder") as step:
        found = in_fresh_process("convkit.backends.tensorrt:describe_library", job)
        if found["builder"]:
            step.set(FAILED, found["builder"], flavour.remedy)
        else:
            step.set(PASSED, f"{flavour.title} {found['version']} makes one", parser=found["parser"])
    if not found:
        return False
    if host.gpu is None:
        steps.note(section, "runtime", SKIPPED, host.no_gpu)
    elif found["runtime"]:
        steps.note(section, "runtime", FAILED, found["runtime"], remedy="`convkit doctor` shows the driver.")
    else:
        steps.note(section, "runtime", PASSED, "it starts")
    _judge_plugins(steps, section, found)
    return not found["builder"]


def _judge_plugins(steps: Steps, section: str, found: dict[str, Any]) -> None:
    """Make the step of the registry: ours have to register; of NVIDIA's own those are named that are not there."""
    with steps.step(section, "plugins") as step:
        registered = {(name, version) for name, version, _ in found["creators"]}
        step.details.update(creators=found["creators"], registered=found["plugins"])
        failed = [f"{place}: {reason}" for place, reason in found["plugins"].items() if reason]
        if failed:
            step.set(FAILED, "; ".join(failed), "Report it with this examination.")
            return
        gathered = manager().gather("convkit_tensorrt_plugins", target=Target(section)).values()
        absent = [
            f"{plugin.plugin} {plugin.version}"
            for group in gathered
            for plugin in group
            if plugin.source == "shipped" and (plugin.plugin, plugin.version) not in registered
        ]
        text = f"{len(registered)} registered, {len(found['plugins'])} of them by convkit"
        step.set(PASSED, f"{text}; NVIDIA's {', '.join(absent)} is not there" if absent else text, absent=absent)
