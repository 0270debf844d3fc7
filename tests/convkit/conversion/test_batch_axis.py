"""Models without a batch dimension, and inputs that all items of a batch share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.plugins import registered
from torch import nn

from convkit import (
    Adapter,
    ArrayReader,
    Artifact,
    Decode,
    Dim,
    ModelSpec,
    Prepared,
    Preprocess,
    Request,
    Result,
    SourceModel,
    TensorSpec,
    convert,
    hookimpl,
    load,
    validate,
)
from convkit.proof import GoldenSamples


class ScaledNet(nn.Module):
    """A layer whose result is scaled by an input without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)) * scale


class Batched(Adapter):
    """x [batch, 4], and a scale that all items of a batch share."""

    name = "batched"
    summary = "one input without batch axis"
    dims = (Dim("batch", 1, 2, 3),)

    def spec(self, dims: tuple[Dim, ...]) -> ModelSpec:
        inputs = (TensorSpec("x", ("batch", 4)), TensorSpec("scale", ()))
        return ModelSpec("v", dims, inputs, (TensorSpec("y", ("batch", 2)),))

    def load(self, request: Request) -> SourceModel:
        net = ScaledNet().eval()
        net.load_state_dict(torch.load(request.weights, weights_only=True))
        spec = self.spec(request.dims)
        return SourceModel(net, spec, lambda module, given: {"y": module(given["x"], given["scale"])})

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[dict[str, np.ndarray]]:
        return scaled(count, seed, [2.0] * count, (4,))


class Whole(Batched):
    """x [n, 4] as one piece: a model without a batch."""

    name = "whole"
    summary = "no batch"
    dims = (Dim("n", 2, 3, 6),)

    def spec(self, dims: tuple[Dim, ...]) -> ModelSpec:
        inputs = (TensorSpec("x", ("n", 4)), TensorSpec("scale", ()))
        outputs = (TensorSpec("y", ("n", 2)),)
        return ModelSpec("v", dims, inputs, outputs, {"kind": "whole", "n": None}, {"kind": "whole"})

    def samples(self, spec: ModelSpec, count: int, seed: int) -> Sequence[dict[str, np.ndarray]]:
        return scaled(count, seed, np.linspace(1, 2, count), (6, 4))


def scaled(count: int, seed: int, scales: Iterable[float], shape: tuple[int, ...]) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    pairs = zip(range(count), scales, strict=True)
    return [{"x": rng.normal(size=shape).astype(np.float32), "scale": np.float32(scale)} for _, scale in pairs]


class Cut(Preprocess):
    """The first ``n`` rows, or all."""

    reader = ArrayReader()

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.n = spec["n"]

    def __call__(self, raw: Any) -> Prepared:
        return Prepared({"x": raw["x"][: self.n], "scale": np.asarray(raw["scale"])})


@dataclass(frozen=True)
class Total(Result):
    value: float

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value}

    def summary(self) -> str:
        return f"{self.value:.3f}"


class Totals(Decode):
    """The sum of the outputs of one run, which is one item."""

    def __call__(self, outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Total]:
        assert len(metas) == 1
        return [Total(float(outputs["y"].astype(np.float64).sum()))]


class Plugin:
    @hookimpl
    def convkit_adapters(self) -> Iterable[Adapter]:
        return [Batched(), Whole()]

    @hookimpl
    def convkit_preprocess(self, spec: Mapping[str, Any]) -> Preprocess | None:
        return Cut(spec) if spec.get("kind") == "whole" else None

    @hookimpl
    def convkit_decode(self, spec: Mapping[str, Any]) -> Decode | None:
        return Totals() if spec.get("kind") == "whole" else None


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "scaled.pth"
    torch.save(ScaledNet().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def artifacts(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Artifact]]:
    """The artifacts of both adapters, which are installed meanwhile."""
    folder = tmp_path_factory.mktemp("artifacts")
    with registered(Plugin(), "scaled"):
        yield {
            name: convert(name, weights=weights, output=folder / name, samples=3).artifact
            for name in ("batched", "whole")
        }


def expected(weights: Path, raw: Mapping[str, np.ndarray]) -> np.ndarray:
    net = ScaledNet().eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        return net(torch.from_numpy(raw["x"]), torch.tensor(raw["scale"])).numpy()


@pytest.mark.parametrize("name", ["batched", "whole"])
def test_both_are_proved_and_proved_again(artifacts, name):
    assert artifacts[name].manifest["verdict"]["passed"]
    assert validate(artifacts[name]).passed


def test_inputs_with_another_value_of_what_a_batch_shares_run_in_another_batch(artifacts, weights):
    raws = scaled(6, 4, [1, 1, 5, 5, 1, 7], (4,))
    with load(artifacts["batched"]) as predictor:
        for raw, found in zip(raws, predictor.outputs(raws, batch=3), strict=True):
            np.testing.assert_allclose(found["y"], expected(weights, raw), rtol=1e-5, atol=1e-6)


def test_a_model_without_batch_runs_one_input_at_a_time(artifacts, weights):
    raws = scaled(3, 5, [1, 1, 3], (4, 4))
    with load(artifacts["whole"]) as predictor:
        assert predictor.batch_max == 1
        for raw, result in zip(raws, predictor(raws), strict=True):
            assert result.value == pytest.approx(expected(weights, raw).sum(), rel=1e-5)
        assert predictor.outputs(raws, batch=4)[2]["y"].shape == (4, 2)


def test_the_golden_samples_of_a_model_without_batch_each_have_outputs_of_their_own(artifacts, weights):
    with load(artifacts["whole"]) as predictor:
        golden = GoldenSamples.load(artifacts["whole"].path, predictor.spec)
    for sizes, items in golden.samples.prepared.items():
        assert len(items) == 2
        for item, outputs, result in zip(items, golden.outputs[sizes], golden.results[sizes], strict=True):
            wanted = expected(weights, item.tensors)
            np.testing.assert_allclose(outputs["y"], wanted, rtol=1e-5, atol=1e-6)
            assert result["value"] == pytest.approx(wanted.sum(), rel=1e-4)
