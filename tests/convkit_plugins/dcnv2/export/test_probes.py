"""The probes of ``dcn``: valid models that are the same in each type, and whose limits tell faults of engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from convkit import EngineProbe
from convkit.backends import engine_probes, open_session, ways_of
from convkit.doctor.tensorrt import LIMITS
from convkit_plugins.dcnv2.export import probes

PROBES = {probe.name: probe for probe in probes()}
SMALL = [name for name, probe in PROBES.items() if not probe.timed]


def nodes(probe: EngineProbe) -> dict[str, dict[str, object]]:
    """Return the attributes of each layer."""
    model = probe.model("float32")
    return {
        node.name: {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        for node in model.graph.node
    }


def run(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray], folder: Path, backend: str = "torch"
) -> dict[str, np.ndarray]:
    onnx.save(model, str(folder / "model.onnx"))
    return open_session(backend, folder / "model.onnx").run(feeds)


def test_the_plugin_brings_them_and_the_ways_are_the_choices_of_its_option():
    assert {probe.name for probe in engine_probes()} >= set(PROBES)
    assert set(ways_of(PROBES["dcn-layer"])) >= {"grid-sample", "gather", "native"}
    assert "auto" not in ways_of(PROBES["dcn-layer"])


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_models_are_valid_and_the_same_in_each_type(name: str, dtype: str):
    model = PROBES[name].model(dtype)
    onnx.checker.check_model(model, full_check=True)
    exact = PROBES[name].model("float64")
    for mine, other in zip(model.graph.initializer, exact.graph.initializer, strict=True):
        array = onnx.numpy_helper.to_array(mine)
        assert array.dtype == dtype
        np.testing.assert_array_equal(array.astype(np.float64), onnx.numpy_helper.to_array(other))


@pytest.mark.parametrize("name", PROBES)
def test_inputs_fit_and_are_the_same_in_float16(name: str):
    probe = PROBES[name]
    for batch in probe.batches:
        values = probe.inputs(batch)
        shapes = {
            item.name: tuple(dim.dim_value or batch for dim in item.type.tensor_type.shape.dim)
            for item in probe.model("float32").graph.input
        }
        assert {key: value.shape for key, value in values.items()} == shapes
        for value in values.values():
            assert value.dtype == np.float32
            np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))


def test_every_setting_and_the_edges_are_covered():
    table = nodes(PROBES["dcn-parameters"]) | nodes(PROBES["dcn-oblong"])
    assert {tuple(each["kernel_shape"]) for each in table.values()} >= {(1, 1), (3, 3), (2, 3)}  # type: ignore[arg-type]
    assert {tuple(each["strides"]) for each in table.values()} >= {(1, 1), (2, 2), (1, 2)}  # type: ignore[arg-type]
    assert {tuple(each["dilations"]) for each in table.values()} >= {(1, 1), (2, 2), (1, 2)}  # type: ignore[arg-type]
    assert {each["offset_group"] for each in table.values()} == {1, 2}
    inputs = [set(node.input) for name in SMALL for node in PROBES[name].model("float32").graph.node]
    assert any("" in names for names in inputs)
    assert any(not any(name.endswith(".mask") for name in names) for names in inputs)
    offset = PROBES["dcn-parameters"].inputs(1)["plain.offset"]
    assert (np.abs(offset) > 20).any()
    assert (offset == np.round(offset)).mean() > 0.2


def test_the_equal_directions_stand_alone():
    """TensorRT's own DeformConv is right for those only: it is offered for one probe and refused for the other."""
    for each in nodes(PROBES["dcn-parameters"]).values():
        for name in ("strides", "dilations", "pads"):
            assert len(set(each[name])) == 1  # type: ignore[call-overload]


@pytest.mark.parametrize("name", PROBES)
def test_pytorch_and_onnx_runtime_agree_on_the_reference(name: str, tmp_path: Path):
    probe = PROBES[name]
    values = dict(probe.inputs(probe.batches[1]))
    doubles = {key: value.astype(np.float64) for key, value in values.items()}
    exact = run(probe.model("float64"), doubles, tmp_path)
    for key, found in run(probe.model("float32"), values, tmp_path, "onnxruntime").items():
        assert np.abs(found - exact[key]).max() < 1e-5 * np.abs(exact[key]).max()


def rounded_positions(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Round sampling positions to float16, as an engine does that computes them in half precision."""
    offset = values["layer.offset"].copy()
    rows, columns = np.mgrid[:128, :128].astype(np.float32)
    for tap in range(9):
        for axis, grid in enumerate((rows + tap // 3 - 1, columns + tap % 3 - 1)):
            plane = offset[:, 2 * tap + axis]
            offset[:, 2 * tap + axis] = (plane + grid).astype(np.float16).astype(np.float32) - grid
    return {**values, "layer.offset": offset}


def swapped_axes(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take the vertical offsets for the horizontal ones."""
    offset = values["layer.offset"]
    shape = (len(offset), 9, 2, *offset.shape[2:])
    return {**values, "layer.offset": offset.reshape(shape)[:, :, ::-1].reshape(offset.shape).copy()}


def no_mask(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**values, "layer.mask": np.ones_like(values["layer.mask"])}


def shifted(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sample a tenth of a pixel beside."""
    return {**values, "layer.offset": values["layer.offset"] + np.float32(0.1)}


@pytest.mark.parametrize("fault", [rounded_positions, swapped_axes, no_mask, shifted])
def test_faults_of_engines_are_beyond_the_limits_on_the_layer_of_real_size(
    fault: Callable[..., object], tmp_path: Path
):
    probe = PROBES["dcn-layer"]
    values, model = dict(probe.inputs(1)), probe.model("float32")
    wanted = run(model, values, tmp_path)["layer.y"]
    found = run(model, fault(values), tmp_path)["layer.y"]  # type: ignore[arg-type]
    assert np.abs(found - wanted).max() > LIMITS["float16"] * np.abs(wanted).max()


@pytest.mark.parametrize("name", SMALL)
def test_sixteen_bits_are_within_their_limit(name: str, tmp_path: Path):
    """Weights, inputs and results in float16, sums in float32: what a right engine does."""
    probe = PROBES[name]
    values = probe.inputs(2)
    wanted = run(probe.model("float64"), {key: value.astype(np.float64) for key, value in values.items()}, tmp_path)
    for key, found in run(probe.model("float32"), dict(values), tmp_path).items():
        rounded = torch.from_numpy(found).half().double().numpy()
        assert np.abs(rounded - wanted[key]).max() < LIMITS["float16"] / 4 * np.abs(wanted[key]).max()
