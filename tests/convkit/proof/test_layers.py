"""Layers compared channel by channel: figures against a definition of their own, faults that no output shows."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.plugins import registered
from support.toy import ToyPlugin

from convkit import Artifact
from convkit.artifact import spec_from_manifest
from convkit.backends.torch import session_in
from convkit.errors import IntegrityError
from convkit.proof import LAYERS, GoldenSamples, Layers, layer_feed
from convkit.proof import _layers as module


def net(seed: int = 0, size: int = 8) -> onnx.ModelProto:
    """Return a convolution of 3 to 5 channels, a Relu and another one of 5 to 2."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((5, 3, 3, 3)),
        "b": rng.standard_normal(5),
        "v": rng.standard_normal((2, 5, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["first"], name="a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["first"], ["middle"], name="r"),
        helper.make_node("Conv", ["middle", "v"], ["y"], name="c"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, size, size])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def runs_in(dtype: str) -> Any:
    """Return what runs graphs by the torch backend in a dtype, from a file of their own."""

    def opened(model: onnx.ModelProto) -> Any:
        with TemporaryDirectory() as folder:
            onnx.save(model, f"{folder}/model.onnx")
            return session_in(Path(folder) / "model.onnx", dtype).visit

    return opened


@pytest.fixture(scope="module")
def feed() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def half(feed: dict[str, np.ndarray]) -> Layers:
    return Layers.measure(net(), feed, runs_in("float64"), runs_in("float16"), "fp16")


def test_figures_are_mean_and_root_mean_square_by_channel(half: Layers, feed: dict[str, np.ndarray]) -> None:
    from numpy.lib.stride_tricks import sliding_window_view

    model = net()
    weight, bias, _ = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer)
    padded = np.pad(feed["x"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = sliding_window_view(padded, (3, 3), (2, 3))
    first = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    assert half.names == ("first", "y")
    exact, found = half.figures[0]
    np.testing.assert_allclose(exact[0], first.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(exact[1], np.sqrt((first**2).mean((0, 2, 3))), rtol=1e-6)
    assert half.errors[0] == pytest.approx(np.abs(found - exact).max() / exact[1].max())
    assert 1e-5 < half.errors[0] <= half.errors[1] < 1e-2


def check(layers: Layers, feed: dict[str, np.ndarray], model: onnx.ModelProto, monkeypatch: Any, dtype: str) -> Any:
    """Return the check of a float32 graph that PyTorch runs in a dtype."""
    monkeypatch.setattr(Layers, "_feed", lambda self, samples: feed)
    monkeypatch.setattr(module, "graph_runs", lambda backend, device: runs_in(dtype))
    return layers.check(model, None, "torch", "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_float32_and_the_precision_itself_pass(
    half: Layers, feed: dict[str, np.ndarray], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = check(half, feed, net(), monkeypatch, dtype)
    assert found.passed
    assert found.case == "2 layers"
    assert found.figures["share"] < 0.5


def test_one_weight_of_another_exponent_is_found_in_its_layer(
    half: Layers, feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(net())
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[3, 0, 1, 1] *= 1.05
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    found = check(half, feed, model, monkeypatch, "float16")
    assert not found.passed
    assert found.note.startswith("the first layer that differs is first: channel 3 has the ")


def test_the_spread_of_a_channel_counts_beside_its_mean(
    half: Layers, feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs(backend: str, device: str) -> Any:
        def opened(model: onnx.ModelProto) -> Any:
            visit = runs_in("float16")(model)

            def spread(name: str, value: np.ndarray, take: Any) -> None:
                take(name, value + 0.1 * (value - value.mean((2, 3), keepdims=True)))

            return lambda feed, take: visit(feed, lambda name, value: spread(name, value, take))

        return opened

    monkeypatch.setattr(Layers, "_feed", lambda self, samples: feed)
    monkeypatch.setattr(module, "graph_runs", runs)
    found = half.check(net(), None, "torch", "cpu")  # type: ignore[arg-type]
    assert found is not None
    assert not found.passed
    assert "root mean square" in found.note


def test_float16_is_no_float32(feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Layers.measure(net(), feed, runs_in("float64"), runs_in("float32"), "fp32")
    assert check(wide, feed, net(), monkeypatch, "float32").passed
    found = check(wide, feed, net(), monkeypatch, "float16")
    assert not found.passed
    assert found.figures["share"] > 10


def test_few_pixels_average_little_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that is added apart rounds each pixel once more, and the mean of four pixels shows it."""
    shares = []
    for seed in range(40):
        feed = {"x": np.random.default_rng(100 + seed).standard_normal((1, 3, 2, 2)).astype(np.float32)}
        model = net(seed, 2)
        brain = Layers.measure(model, feed, runs_in("float64"), runs_in("bfloat16"), "bf16")
        apart = copy.deepcopy(model)
        first = apart.graph.node[0]
        bias = numpy_helper.to_array(apart.graph.initializer[1]).reshape(1, 5, 1, 1)
        apart.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b"))
        del first.input[2]
        first.output[0] = "sum"
        apart.graph.node.insert(1, helper.make_node("Add", ["sum", "b"], ["first"]))
        shares.append(check(brain, feed, apart, monkeypatch, "bfloat16").figures["share"])
    assert max(shares) <= 1
    assert max(shares) > 0.5


def test_nan_in_a_layer_fails(half: Layers, feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    bias = numpy_helper.to_array(model.graph.initializer[1]).copy()
    bias[2] = np.nan
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b"))
    found = check(half, feed, model, monkeypatch, "float16")
    assert not found.passed
    assert found.note == "the first layer that differs is first: it has NaN or infinity"


@pytest.mark.parametrize("given", [{}, {"first": np.zeros((1, 0, 8, 8))}, {"first": np.zeros(5)}])
def test_a_layer_that_an_engine_leaves_out_or_empty_fails(
    half: Layers, feed: dict[str, np.ndarray], given: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layers, "_feed", lambda self, samples: feed)

    def runs(backend: str, device: str) -> Any:
        def opened(graph: onnx.ModelProto) -> Any:
            def visit(feed: Any, take: Any) -> None:
                runs_in("float16")(graph)(feed, lambda name, value: name == "first" or take(name, value))
                for name, value in given.items():
                    take(name, value)

            return visit

        return opened

    monkeypatch.setattr(module, "graph_runs", runs)
    found = half.check(net(), None, "torch", "cpu")  # type: ignore[arg-type]
    assert found is not None
    assert not found.passed
    assert found.note == "the first layer that differs is first: 0 channels for 5"


def test_a_graph_without_the_names_has_nothing_to_compare(
    half: Layers, feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()
    for node in model.graph.node:
        node.input[:] = [f"{name}2" if name in ("first", "middle") else name for name in node.input]
        node.output[:] = [f"{name}2" for name in node.output]
    model.graph.output[0].name = "y2"
    assert check(half, feed, model, monkeypatch, "float16") is None


def test_an_artifact_keeps_its_layers(toy_artifact: Artifact) -> None:
    layers = Layers.load(toy_artifact)
    assert layers
    assert layers.precision == "fp32"
    assert len(layers.names) == 3
    spec = spec_from_manifest(toy_artifact.manifest)
    with registered(ToyPlugin()):
        golden = GoldenSamples.load(toy_artifact.path, spec)
        sizes = next(iter(golden.samples.prepared))
        assert layers._feed(golden.samples) is not None
        assert layers._feed(golden.samples)["images"].shape == layer_feed(spec, golden.samples, sizes)["images"].shape
        found = layers.check(onnx.load(str(toy_artifact.model)), golden.samples, "onnxruntime", "cpu")
    assert found
    assert found.passed
    assert [check["kind"] for check in toy_artifact.verdict["checks"]].count("layers") == 1


@pytest.mark.parametrize("damage", ["cut", "text", "counts"])
def test_a_damaged_file_is_named(toy_artifact: Artifact, tmp_path: Path, damage: str) -> None:
    shutil.copytree(toy_artifact.path, tmp_path / "toy")
    file = tmp_path / "toy" / LAYERS
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        file.write_text("no archive")
    else:
        arrays = dict(np.load(file, allow_pickle=False))
        np.savez(file, **{**arrays, "counts": arrays["counts"] * 2})
    with pytest.raises(IntegrityError, match=r"layers\.npz of .* cannot be read"):
        Layers.load(Artifact.open(tmp_path / "toy"))


def test_an_engine_runs_layers_together_as_far_as_memory_allows(
    half: Layers, feed: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second layer has a declared shape, 2 x 8 x 8 in float32; what is not known counts as a 64th of the room."""
    asked: list[list[str]] = []

    def watched(model: onnx.ModelProto) -> Any:
        asked.append([value.name for value in model.graph.output])
        return runs_in("float16")(model)

    monkeypatch.setattr(Layers, "_feed", lambda self, samples: feed)
    monkeypatch.setattr(module, "graph_runs", lambda backend, device: watched)
    checks = []
    for room, parts in ((64 * 1024, [["first", "y"]]), (511, [["first"], ["y"]]), (1, [["first"], ["y"]])):
        monkeypatch.setattr(module, "AT_ONCE", room)
        checks.append(half.check(net(), None, "torch", "cpu"))  # type: ignore[arg-type]
        assert asked == parts
        asked.clear()
    assert checks[0] == checks[1] == checks[2]
