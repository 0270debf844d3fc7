"""NVIDIA's own command that makes the same engine: ``trtexec`` for TensorRT, ``tensorrt_rtx`` for TensorRT-RTX."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from convkit.backends import TensorRTPlugin
from convkit.backends.tensorrt._child import Build
from convkit.backends.tensorrt._flavour import Flavour

__all__ = ["build_command", "plugins_note"]


def build_command(flavour: Flavour, graph: Path, folder: Path, build: Build, plugins: Sequence[TensorRTPlugin]) -> str:
    """Return a command for the shell, to be given in ``folder``; an empty string where the graph needs our plugins.

    The plan is called after the tool, so that it does not take the place of the one that was proved.
    """
    if plugins:
        return ""
    settings, tool = build.settings, "tensorrt_rtx" if flavour.targets else "trtexec"
    words = [tool, f"--onnx={os.path.relpath(graph, folder)}", f"--saveEngine={tool}.plan", "--skipInference"]
    if flavour.targets:
        words.append(f"--computeCapabilities={','.join(target.removeprefix('sm') for target in build.targets)}")
    else:
        words.append("--stronglyTyped")
    for place, name in enumerate(("min", "opt", "max")):
        shapes = [f"{tensor}:{'x'.join(map(str, shape[place]))}" for tensor, shape in build.ranges.items()]
        words += [f"--{name}Shapes={','.join(shapes)}"] if shapes else []
    if settings.workspace:
        words.append(f"--memPoolSize=workspace:{settings.workspace}M")
    if settings.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={settings.optimization_level}")
    if settings.hardware_compatibility != "none":
        level = {"ampere-plus": "ampere+", "same-compute-capability": "sameComputeCapability"}
        words.append(f"--hardwareCompatibilityLevel={level[settings.hardware_compatibility]}")
    if settings.version_compatible:
        words += ["--versionCompatible", "--excludeLeanRuntime"]
    return shlex.join(words)


def plugins_note(plugins: Sequence[TensorRTPlugin]) -> str:
    """Return what a plan with these plugins needs of convkit, in a sentence; an empty string without plugins."""
    here = sorted({plugin.plugin for plugin in plugins if plugin.to_run})
    inside = sorted({plugin.plugin for plugin in plugins if not plugin.to_run})
    notes = []
    if here:
        notes.append(f"It contains no code of {', '.join(here)}: a process that runs it needs convkit's plugin.")
    if inside:
        notes.append(f"It contains the code of {', '.join(inside)}: only its build needed convkit's plugin.")
    return " ".join(notes)
