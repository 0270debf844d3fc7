"""The plugin ``convkit::DCNv2``, driven through NVIDIA's own plugin code in three versions of its bindings."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support import tensorrt_bindings
from support.aot_layers import LAYERS, PRELOAD, SETUP, TYPES, AotLayer
from support.deform_layers import DeformLayer
from support.tensorrt_bindings import VERSIONS, Unavailable
from support.tensorrt_drive import Input, Job, drive, drive_all

from convkit.cuda import evaluate, parse_ptx
from convkit.graph import apply_rewrite
from convkit_plugins.dcnv2.cuda import Layer
from convkit_plugins.dcnv2.export import TensorRTPluginNode
from convkit_plugins.dcnv2.tensorrt import FORMATS, WeightOrder, launches

pytest.importorskip("cupy")
pytestmark = pytest.mark.slow
NEWEST = VERSIONS[-1]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A version of the bindings; skips where it, or the stand-in, cannot be had."""
    return available(request.param)


def available(version: str) -> str:
    try:
        tensorrt_bindings.search_path(version)
    except Unavailable as reason:
        pytest.skip(str(reason))
    return version


def test_every_layer_is_launched_as_in_python(version: str) -> None:
    """Types, formats, tactics, launches, integers and code, against the declarations evaluated with numbers."""
    answers = drive_all(version, [layer.job() for layer in LAYERS.values()], preload=PRELOAD)
    for (name, layer), answer in zip(LAYERS.items(), answers, strict=True):
        assert answer["problems"] == [], (name, answer["log"])
        check(layer, answer)


def check(layer: AotLayer, answer: Mapping[str, Any]) -> None:
    cases = [layer.extents(*size) for size in layer.sizes]
    assert answer["core"] == ["DCNv2", "1", "convkit"]
    (output,) = answer["outputs"]
    shapes = [[case["batch"], layer.layer.filters, case["out_height"], case["out_width"]] for case in cases]
    assert (output["dtype"], output["shapes"]) == (TYPES[layer.dtype], shapes)
    last, found = {False: "LINEAR", True: FORMATS[layer.dtype]}, {}
    for entry in answer["variants"]:
        assert set(entry["types"]) == {TYPES[layer.dtype]}
        assert entry["formats"][1:5] == ["LINEAR"] * 4
        found[entry["formats"][0], entry["formats"][5], entry["tactic"]] = entry
    expected = launches(layer.settings, layer.dtype)
    assert len(found) == len(expected)
    for launch in expected:
        entry = found[last[launch.x_last], last[launch.out_last], launch.tactic]
        config = launch.config
        for case, numbers, extra in zip(cases, entry["launches"], entry["extras"], strict=True):
            values = (*config.grid, *config.block, config.dynamic_smem_bytes)
            assert numbers == [evaluate(value, case) for value in values]
            assert extra == [evaluate(value, case) for value in launch.scalars]
        kernel = launch.variant.kernel
        assert entry["kernel"] == kernel.name
        ptx = parse_ptx(base64.b64decode(entry["code_base64"]).decode())[kernel.name]
        assert ptx.parameters == ("u64",) * 5 + ("u32",) * len(launch.scalars) + ("u64",)
        assert (ptx.target, entry["ptx"]["target"]) == ("sm_80", "sm_80")


def test_the_node_that_the_rewrite_makes_is_taken(version: str) -> None:
    """From DeformConv to launches: the attributes of the ONNX node, as NVIDIA's parser hands them over."""
    source = DeformLayer(channels=16, filters=24, stride=(2, 1), size=(12, 14), dtype=np.float16)
    model, _ = apply_rewrite(source.model(), TensorRTPluginNode())
    (node,) = model.graph.node
    layer = AotLayer(Layer(24, (3, 3), (2, 1), (1, 1)), 16, sizes=((2, 12, 14),))
    inputs = [Input("HALF", shape) for shape in layer.shapes(2, 12, 14)]
    answer = drive(version, Job.of_node(SETUP, node, inputs, cases=[layer.shapes(2, 12, 14)]))
    assert answer["problems"] == [], answer["log"]
    check(layer, answer)


BASE = AotLayer(Layer(16, (3, 3), (1, 1), (1, 1)), 16)
PLAIN = replace(BASE, dtype="float32", order=WeightOrder.PLAIN)


def with_input(layer: AotLayer, index: int, dtype: str, shape: tuple[int, ...]) -> Job:
    job = replace(layer, sizes=((1, 8, 8),)).job()
    inputs = list(job.inputs)
    inputs[index] = Input(dtype, shape)
    cases = [[tuple(each.dims) for each in inputs]]
    return replace(job, inputs=inputs, cases=cases)


REFUSED = {
    "images of one row": (replace(BASE, sizes=((1, 1, 4), (1, 8, 8))).job(), r"at least 2 x 2 pixels.*dcn=gather"),
    "mixed types": (with_input(BASE, 4, "FLOAT", (16,)), "one type, FLOAT, HALF or BF16; its inputs are .*bias FLOAT"),
    "integers": (with_input(BASE, 0, "INT32", (1, 16, 8, 8)), "x INT32"),
    "weights of another type": (replace(BASE, dtype="float32", sizes=((1, 8, 8),)).job(), "packed for 16 bits"),
    "too many channels": (with_input(BASE, 0, "HALF", (1, 24, 8, 8)), r"x has the shape \[1, 24, 8, 8\]; \[1, 16"),
    "another bias": (with_input(BASE, 4, "HALF", (17,)), r"bias has the shape \[17\]; \[16\] fits"),
    "weights that are not packed": (with_input(BASE, 3, "HALF", (16 * 16 * 9,)), "weight has the shape"),
    "a mask of another size": (with_input(BASE, 2, "HALF", (1, 9, 8, 7)), "mask has the shape"),
    "indices beyond 32 bits": (replace(PLAIN, sizes=((1, 8, 8), (4096, 512, 512))).job(), "indices of 32 bits"),
    "settings of nobody": (replace(BASE.job(), fields={**BASE.job().fields, "weight_order": np.array([7], np.int32)}),
                           "weight_order is 7"),
}  # fmt: skip


def test_what_it_cannot_serve_is_refused_with_a_remedy_and_noted() -> None:
    answers = drive_all(available(NEWEST), [job for job, _ in REFUSED.values()])
    for (name, (_, reason)), answer in zip(REFUSED.items(), answers, strict=True):
        assert answer["problems"], name
        noted = [line for line in answer["log"].splitlines() if line.startswith("NOTED convkit::DCNv2: ")]
        assert noted, (name, answer["log"])
        assert re.search(reason, noted[0]), (name, noted[0])


PATCHED = {
    "one integer too few": "kernels.size_scalars = lambda *a, _f=kernels.size_scalars, **b: _f(*a, **b)[:-1]",
    "a NumPy integer in the launch": (
        "aot.evaluate = lambda value, *rest, _f=aot.evaluate: __import__('numpy').int64(value)"
        " if isinstance(value, int) else _f(value, *rest)"
    ),
    "an old driver": "aot.local_gpu = lambda: (86, 11040)",
    "a GPU without the tensor cores": "aot.local_gpu = lambda: (75, 13000)",
    "the order of arguments of Python": (
        "kernels.TENSOR_AOT = __import__('dataclasses').replace(kernels.TENSOR,"
        " constants=(*kernels.TENSOR.constants, 'OUTPUT_LAST', 'PACKED'))"
    ),
}
FOUND = {
    "one integer too few": r"passed \[64",
    "a NumPy integer in the launch": "is no symbolic integer",
    "an old driver": r"reads PTX 7\.4 at most",
    "a GPU without the tensor cores": r"this GPU has 7\.5",
    "the order of arguments of Python": "declared as",
}


def test_planted_faults_are_found() -> None:
    head = "from convkit_plugins.dcnv2.tensorrt import _aot as aot, _aot_kernels as kernels\n"
    layer = replace(BASE, sizes=((1, 8, 8),))
    answers = drive_all(available(NEWEST), [layer.job(head + patch + SETUP) for patch in PATCHED.values()])
    for name, answer in zip(PATCHED, answers, strict=True):
        text = " ".join(answer["problems"])
        assert re.search(FOUND[name], text), (name, text, answer["log"])


ALREADY = """
import tensorrt_bindings
import tensorrt.plugin as trtp
from convkit.errors import PluginError
from convkit_plugins.dcnv2.tensorrt import register_aot

@trtp.register("convkit::DCNv2")
def other(x: trtp.TensorDesc) -> trtp.TensorDesc:
    return x.like()

try:
    register_aot(tensorrt_bindings, [])
except PluginError as error:
    print(error.message, error.hint)
"""
NO_PLUGINS = """
import types
from convkit.errors import EnvironmentProblem
from convkit_plugins.dcnv2.tensorrt import register_aot
try:
    register_aot(types.ModuleType("bindings_without_plugins"), [])
except EnvironmentProblem as error:
    print(error.message, error.hint)
"""


def test_a_name_that_is_taken_and_bindings_without_plugins() -> None:
    printed = tensorrt_bindings.run(available(NEWEST), ALREADY)
    assert "convkit::DCNv2 is registered already, and not by convkit" in printed
    assert "--set dcn=gather" in printed
    printed = tensorrt_bindings.run(NEWEST, NO_PLUGINS)
    assert "have no module for plugins" in printed
    assert "pip install tensorrt" in printed
