"""The rung pipeline: a predictor that loses, exchanges or spoils something fails, and a right one never does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from support.device_pipeline import NumpyDevice

from convkit import DeviceSession, Prepared, Preprocess, Session, validate
from convkit.artifact import spec_from_manifest
from convkit.backends import open_artifact
from convkit.evaluation import check_pipeline, prove_predictor
from convkit.processing import find_decode, find_preprocess
from convkit.proof import DECODED, GoldenSamples, Verdict
from convkit.runtime import DevicePredictor, Predictor, predictor_of


class OnFakeDevice(DeviceSession):
    """An engine whose device is NumPy; ``stale`` replays of a CUDA graph return what the capture found."""

    def __init__(self, session: Session) -> None:
        self.session, self.stale, self.replays = session, False, 0

    def buffer(self, name: str, shape: Sequence[int]) -> np.ndarray:
        return np.full(tuple(shape), np.nan, np.float32)

    def fill(self, buffer: np.ndarray, values: np.ndarray) -> None:
        buffer[...] = values

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.session.run(inputs)

    def fetch(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: np.array(value) for name, value in outputs.items()}

    def capture(self, body: Callable[[], None]) -> Callable[[], None]:
        body()

        def replay() -> None:
            self.replays += 1
            if not self.stale:
                body()

        return replay


class OnGpu(Session):
    """A session of ONNX Runtime that says it is on a GPU."""

    device = "cuda"

    def __init__(self, session: Session) -> None:
        self.session, self.engine = session, OnFakeDevice(session)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self.session.run(inputs)

    def on_device(self, stream: int) -> OnFakeDevice:
        return self.engine


@pytest.mark.parametrize("stale", [False, True])
def test_on_a_device_each_stream_is_run_until_its_graph_is_replayed(blobs, blob_artifact, monkeypatch, stale):
    monkeypatch.setattr("convkit.runtime._device_predictor.Cuda", lambda device: NumpyDevice())
    session = OnGpu(open_artifact(blob_artifact, "onnxruntime"))
    session.engine.stale = stale
    with predictor_of(blob_artifact, session) as predictor:
        assert isinstance(predictor, DevicePredictor)
        golden = GoldenSamples.load(blob_artifact.path, predictor.spec)
        checks = check_pipeline(predictor, golden, Verdict.from_json(blob_artifact.verdict).baselines)
    assert session.engine.replays > 0
    streams = ("batch 1", "mixed stream")
    assert [check.case for check in checks] == [f"{name}, round {n}" for name in streams for n in range(1, 5)]
    assert all(check.passed for check in checks) != stale


class Spoilt(Predictor):
    """A predictor whose stream is changed by ``fault``."""

    fault: Any = staticmethod(lambda results: results)

    def stream(self, inputs: Iterable[Any], *, batch: int = 1) -> Iterator[Any]:
        yield from self.fault(list(super().stream(inputs, batch=batch)))

    def stream_outputs(self, inputs: Iterable[Any], *, batch: int = 1) -> Iterator[Any]:
        yield from self.fault(list(super().stream_outputs(inputs, batch=batch)))


def spoilt(artifact: Any, fault: Any = None, **ends: Any) -> Spoilt:
    predictor = Spoilt(artifact, open_artifact(artifact, "onnxruntime"), **ends)
    if fault:
        predictor.fault = fault
    return predictor


FAULTS = {
    "the last is lost": lambda found: found[:-1],
    "one in the middle is lost": lambda found: [*found[:1], *found[2:]],
    "one comes twice": lambda found: [*found, found[-1]],
    "two are exchanged": lambda found: [found[1], found[0], *found[2:]],
    "they are turned round": lambda found: found[::-1],
    "the first takes the place of all": lambda found: [found[0]] * len(found),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("kind", ["blob", "embedding", "pair"])
def test_lost_doubled_and_exchanged_results_fail(request, kind, name):
    artifact = request.getfixturevalue(f"{kind}_artifact")
    request.getfixturevalue({"blob": "blobs"}.get(kind, kind))
    with spoilt(artifact, FAULTS[name]) as predictor:
        verdict = prove_predictor(predictor, backend="onnxruntime")
    assert not verdict.passed
    assert {check.kind for check in verdict.failures} == {"pipeline"}


@pytest.mark.parametrize("kind", ["toy", "blob", "embedding", "pair"])
def test_a_right_predictor_passes_all_streams(request, kind):
    artifact = request.getfixturevalue(f"{kind}_artifact")
    request.getfixturevalue({"blob": "blobs"}.get(kind, kind))
    with predictor_of(artifact, open_artifact(artifact, "onnxruntime")) as predictor:
        verdict = prove_predictor(predictor, backend="onnxruntime")
        sizes = len(GoldenSamples.load(artifact.path, predictor.spec).samples.prepared)
    assert verdict.passed, verdict.failures
    cases = dict.fromkeys(check.case for check in verdict.checks if check.kind == "pipeline")
    mixed = ["mixed item sizes"] if sizes > 1 and predictor.decodes else []
    assert list(cases) == ["batch 1", "mixed stream", *mixed]


@pytest.mark.parametrize(("error", "passes"), [(2e-7, True), (2e-5, False)])
def test_outputs_of_small_numbers_err_as_their_batch_does(embedding, embedding_artifact, error, passes):
    def shrunk(outputs: Mapping[str, np.ndarray], error: float = 0.0) -> dict[str, np.ndarray]:
        return {name: (value * np.float32(1e-3) + np.float32(error)) for name, value in outputs.items()}

    golden = GoldenSamples.load(embedding_artifact.path, spec_from_manifest(embedding_artifact.manifest))
    for rows in golden.outputs.values():
        rows[1] = shrunk(rows[1])
    baselines = Verdict.from_json(embedding_artifact.verdict).baselines
    assert all(0.01 < table["scale"] < 10 for table in baselines.values()), baselines

    def spoil(found: list[Any]) -> list[Any]:
        return [shrunk(one, error) if row % len(golden.raws) == 1 else one for row, one in enumerate(found)]

    with spoilt(embedding_artifact, spoil) as predictor:
        checks = check_pipeline(predictor, golden, baselines)
    assert [check.passed for check in checks] == [passes] * 2


class Brighter(Preprocess):
    """A preprocess that is a tenth off."""

    def __init__(self, genuine: Preprocess) -> None:
        self.genuine = genuine

    def __call__(self, raw: Any) -> Prepared:
        prepared = self.genuine(raw)
        return Prepared({name: value * np.float32(1.1) for name, value in prepared.tensors.items()}, prepared.meta)


def test_another_preprocess_than_the_artifact_names_fails(toy, toy_artifact):
    spec = spec_from_manifest(toy_artifact.manifest)
    with spoilt(toy_artifact, preprocess=Brighter(find_preprocess(spec.preprocess))) as predictor:
        failures = prove_predictor(predictor, backend="onnxruntime").failures
    assert {check.kind for check in failures} == {"pipeline"}
    assert {check.output for check in failures} == {DECODED}


def test_another_decode_than_the_artifact_names_fails(blobs, blob_artifact):
    spec = spec_from_manifest(blob_artifact.manifest)
    decode = find_decode({**spec.decode, "threshold": 0.99})
    with spoilt(blob_artifact, decode=decode) as predictor:
        assert {check.kind for check in prove_predictor(predictor, backend="onnxruntime").failures} == {"pipeline"}


def test_an_input_whose_size_is_its_own_is_proved_in_that_size(pair, pair_artifact):
    """The preprocess of this model keeps the length of each input, which is none of the corners of the profile."""
    spec = spec_from_manifest(pair_artifact.manifest)
    golden = GoldenSamples.load(pair_artifact.path, spec)
    lengths = [len(raw["ids"]) for raw in golden.raws]
    assert {(("n", length),) for length in lengths} <= set(golden.outputs)


def test_where_run_refuses_every_stored_input_nothing_is_compared(pair, pair_artifact):
    spec = spec_from_manifest(pair_artifact.manifest)
    golden = GoldenSamples.load(pair_artifact.path, spec)
    long = {"ids": np.ones(40, np.int64), "features": np.zeros((41, 4), np.float32)}
    golden.raws = [long] * len(golden.raws)
    with predictor_of(pair_artifact, open_artifact(pair_artifact, "onnxruntime")) as predictor:
        assert check_pipeline(predictor, golden, {}) == []


def test_streams_take_the_inputs_in_turn_and_mix_batches(toy, toy_artifact, monkeypatch):
    batches: list[int] = []
    genuine = Predictor._run

    def count(predictor: Predictor, items: Any) -> Any:
        batches.append(len(items))
        return genuine(predictor, items)

    monkeypatch.setattr(Predictor, "_run", count)
    with predictor_of(toy_artifact, open_artifact(toy_artifact, "onnxruntime")) as predictor:
        golden = GoldenSamples.load(toy_artifact.path, predictor.spec)
        check_pipeline(predictor, golden, Verdict.from_json(toy_artifact.verdict).baselines)
    assert batches == [1, 1, 4, 1]


def test_a_conversion_runs_the_pipeline_too(toy_artifact):
    cases = [check["case"] for check in toy_artifact.verdict["checks"] if check["kind"] == "pipeline"]
    assert cases == ["batch 1", "mixed stream"]


def test_validate_runs_the_pipeline_after_everything_else(blobs, blob_artifact):
    kinds = [check.kind for check in validate(blob_artifact).checks]
    assert kinds[-3:] == ["pipeline"] * 3
    assert "pipeline" not in kinds[:-3]
