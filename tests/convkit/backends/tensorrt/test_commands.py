"""The command of NVIDIA's own tool that builds the same engine."""

from __future__ import annotations

import shlex
from pathlib import Path

from convkit import TensorRTPlugin
from convkit.backends.tensorrt import FLAVOURS, Build
from convkit.backends.tensorrt._commands import build_command, plugins_note
from convkit.backends.tensorrt._options import BuildSettings

RTX, FULL = FLAVOURS["tensorrt-rtx"], FLAVOURS["tensorrt"]
RANGES = {"x": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)), "it's": ((1,), (2,), (4,))}
ARTIFACT = Path("/a b/artifact")
FOLDER = ARTIFACT / "engines" / "tensorrt"


def words(flavour, build, graph=FOLDER / "model.onnx"):
    return shlex.split(build_command(flavour, graph, FOLDER, build, ()))


def test_the_shapes_and_targets_are_those_of_the_build():
    assert words(RTX, Build(("sm86", "sm120"), RANGES)) == [
        "tensorrt_rtx", "--onnx=model.onnx", "--saveEngine=tensorrt_rtx.plan", "--skipInference",
        "--computeCapabilities=86,120", "--minShapes=x:1x3x8x8,it's:1", "--optShapes=x:2x3x8x8,it's:2",
        "--maxShapes=x:4x3x8x8,it's:4",
    ]  # fmt: skip


def test_a_graph_of_fixed_shapes_has_no_shapes_and_the_artifacts_own_graph_is_found_from_the_folder():
    assert words(FULL, Build(("sm86",)), ARTIFACT / "model.onnx") == [
        "trtexec", "--onnx=../../model.onnx", "--saveEngine=trtexec.plan", "--skipInference", "--stronglyTyped",
    ]  # fmt: skip


def test_settings_are_passed_on():
    settings = BuildSettings(512, 0, "ampere-plus", version_compatible=True)
    assert words(FULL, Build(("sm86",), settings=settings))[5:] == [
        "--memPoolSize=workspace:512M", "--builderOptimizationLevel=0", "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible", "--excludeLeanRuntime",
    ]  # fmt: skip


def test_a_graph_with_plugins_has_no_command_and_says_what_its_plan_needs():
    here = TensorRTPlugin("A", "Here", "1", register="m:f", to_run=True)
    inside = TensorRTPlugin("B", "Inside", "1", register="m:f")
    assert build_command(RTX, FOLDER / "model.onnx", FOLDER, Build(("sm86",)), [here]) == ""
    assert plugins_note([]) == ""
    assert "needs convkit's plugin" in plugins_note([here])
    assert "only its build needed" in plugins_note([inside])
    both = plugins_note([here, inside])
    assert "no code of Here" in both
    assert "the code of Inside" in both
