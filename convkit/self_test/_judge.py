"""The judge: every check of ``convkit validate``, on an artifact in which something was replaced."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from convkit.artifact import Artifact, spec_from_manifest
from convkit.backends import Session, open_artifact, open_session
from convkit.errors import ConvkitError
from convkit.evaluation import prove_predictor
from convkit.model import Tolerance
from convkit.processing import Decode, decode_batch, find_decode, find_preprocess, prepare
from convkit.proof import (
    DECODED,
    Case,
    Check,
    GoldenSamples,
    Layers,
    Verdict,
    feed_key,
    limits_of,
    measure,
    score_slack,
    shape_cases,
)
from convkit.results import json_difference
from convkit.self_test._subject import Subject, predicting, processing

__all__ = ["Judge", "Judgement"]

NOTHING = 0.01
"""A fault that changes every figure by less than this share of its limit, on every sample, changes nothing."""
SAME_TENSORS = 1e-4
SAME_NUMBERS = 2e-8
ONNXRUNTIME = "onnxruntime"
LARGEST_FILE = 2**31 - 2**20
"""Protocol buffers end at 2 GiB; a larger graph has its weights in a file of their own."""


@dataclass(frozen=True)
class Judgement:
    """Whether a subject passed, and if not, the first check that failed or the error that was raised.

    ``used`` is the largest share of a limit that any of its figures takes.
    """

    passed: bool
    by: str = ""
    note: str = ""
    used: float = 0.0


class Judge:
    """Judges subjects by the proof of one artifact, with the backend that runs it.

    The session of the sound artifact stays open; what it returned for an input is remembered, so that faults around the
    engine cost no run of it.
    """

    def __init__(self, artifact: Artifact, backend: str, device: str | None = None) -> None:
        self.artifact, self.backend = artifact, backend
        self.spec = spec_from_manifest(artifact.manifest)
        self.golden = GoldenSamples.load(artifact.path, self.spec, artifact.manifest["files"])
        self.cases = shape_cases(self.spec.dims)
        self.decode = find_decode(self.spec.decode)
        self.baselines = Verdict.from_json(artifact.verdict).baselines
        self.session = open_artifact(artifact, backend, device=device, unproved=True, verify=False)
        self.layers = Layers.load(artifact)
        self._known: dict[bytes, dict[str, np.ndarray]] = {}
        self._feeds: dict[bytes, Mapping[str, np.ndarray]] = {}
        self._fed: tuple[bytes, ...] = ()
        self._sound = Judgement(False)

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph of the artifact."""
        return onnx.load(str(self.artifact.model))

    @cached_property
    def in_16_bits(self) -> bool:
        """Whether the graph computes in float16 or bfloat16."""
        types = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        return any(tensor.data_type in types for tensor in self.model.graph.initializer)

    @cached_property
    def onnxruntime_fits(self) -> bool:
        """Whether ONNX Runtime keeps the limits that the backend keeps: else it is no clean variant of that.

        Raises:
            ConvkitError: it does not take the graph.
        """
        if self.backend == ONNXRUNTIME:
            return True
        session = open_session(ONNXRUNTIME, self.artifact.model)
        try:
            return self.judge_clean(Subject(session=session)).passed
        finally:
            session.close()

    @cached_property
    def result_kind(self) -> type | None:
        """The class of the results; None for a model without decode."""
        sizes, items = next(iter(self.golden.samples.prepared.items()))
        if self.decode is None or not items:
            return None
        return type(decode_batch(self.decode, self.golden.outputs[sizes][0], [items[0].meta])[0])

    def close(self) -> None:
        """Free the engine."""
        self.session.close()

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the sound engine gives; the arrays are the caller's own."""
        key = feed_key(feed)
        if key not in self._known:
            self._known[key] = self.session.run(feed)
            self._feeds[key] = {name: value.copy() for name, value in feed.items()}
        return {name: value.copy() for name, value in self._known[key].items()}

    def open(self, model: onnx.ModelProto) -> Session:
        """Return a session of another graph.

        Raises:
            ConvkitError: the backend does not take it.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            large = model.ByteSize() > LARGEST_FILE
            onnx.save(model, str(path), save_as_external_data=large, location="weights" if large else None)
            return open_session(self.backend, path, device=self.session.device)

    def subject(self, model: onnx.ModelProto) -> Subject:
        """Return the artifact with another graph.

        Raises:
            ConvkitError: the backend does not take it.
        """
        return Subject(session=self.open(model), model=model)

    def judge(self, subject: Subject, *, thorough: bool = False) -> Judgement:
        """Return what `validate` says of a subject; unless ``thorough``, nothing is run after the first failure.

        An error that is meant for people counts as a failure: `validate` exits with it.
        """
        golden = subject.golden or self.golden
        # A planted NaN or infinity goes through the decode as well.
        with subject.settings(), processing(subject), np.errstate(invalid="ignore", over="ignore"):
            try:
                with predicting(self.artifact, subject, self.session, self.run) as predictor:
                    verdict = prove_predictor(
                        predictor, backend=self.backend, golden=golden, stop_early=not thorough,
                        layers=subject.model is not None, model=subject.model,
                    )  # fmt: skip
            except ConvkitError as error:
                return Judgement(False, f"error: {type(error).__name__}", error.message)
        if verdict.passed:
            return Judgement(True, used=max(map(_used, verdict.checks)))
        first = verdict.failures[0]
        return Judgement(False, " ".join((first.kind, first.output, first.case)), first.note or _figures(first))

    def judge_sound(self) -> Judgement:
        """Return what `validate` says of the artifact itself."""
        self._sound = self.judge(Subject(model=self.model), thorough=True)
        self._fed = tuple(self._feeds)
        return self._sound

    def judge_clean(self, subject: Subject) -> Judgement:
        """Return what `validate` says of a subject that is to pass, after `judge_sound`.

        Every feed of a proof is run once. A subject that gives the same to the bit as the sound artifact passes as that
        did, once its layers are compared; for another one every check is run on what it gave.
        """
        compute = subject.session.run if subject.session else subject.run
        if compute is None:
            return self.judge(subject, thorough=True)
        try:
            with subject.settings(), np.errstate(invalid="ignore", over="ignore"):
                given = {key: dict(compute(self._feeds[key])) for key in self._fed}
                if all(_same_bits(self._known[key], found) for key, found in given.items()):
                    return self._layers_alike(subject) or self._sound
        except ConvkitError as error:
            return Judgement(False, f"error: {type(error).__name__}", error.message)

        def run(feed: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            known = given.get(feed_key(feed))
            return compute(feed) if known is None else {name: value.copy() for name, value in known.items()}

        return self.judge(replace(subject, session=None, run=run), thorough=True)

    def _layers_alike(self, subject: Subject) -> Judgement | None:
        """Return the failure of the layers of a subject's graph; None where they pass."""
        if subject.model is None or self.layers is None:
            return None
        check = self.layers.check(subject.model, self.golden.samples, self.backend, self.session.device)
        return None if check is None or check.passed else Judgement(False, check.kind, check.note)

    def changes_nothing(self, subject: Subject) -> bool:
        """Return whether what the subject computes on all samples differs by less than a hundredth of the limits."""
        golden = subject.golden or self.golden
        with subject.settings():
            if subject.deliver:
                return self._delivers_alike(subject)
            if subject.preprocess or subject.specified or subject.decode:
                return self._processes_alike(subject, golden)
            session = subject.session
            run = session.run if session else subject.run or self.run
            return all(self._computes_alike(case, run, golden) for case in self.cases)

    def _computes_alike(self, case: Case, run: Callable[..., Mapping[str, np.ndarray]], golden: GoldenSamples) -> bool:
        feed, metas = golden.samples.feed(case), golden.samples.metas(case)
        known, found = self.run(feed), run(feed)
        for output in self.spec.outputs:
            one, other = known[output.name], found[output.name]
            if one.shape != other.shape or one.dtype != other.dtype:
                return False
            if output.compare == "values":
                limits = self._nothing(self.baselines[output.name], output.tolerance)
                error = measure(one, other)
                if error.max_abs > limits["max_abs"] or error.rel_l2 > limits["rel_l2"]:
                    return False
        if self.decode is None or all(output.compare == "values" for output in self.spec.outputs):
            return True
        baselines = self.baselines.get(DECODED, {})
        limits = self._nothing(baselines, Tolerance())
        pairs = zip(decode_batch(self.decode, known, metas), decode_batch(self.decode, found, metas), strict=True)
        for result, actual in pairs:
            difference = result.compare(actual, slack=score_slack(self.baselines) if self.coarse else SAME_NUMBERS)
            if difference.unexplained > limits.get("unexplained", 0.0) or (difference.ties and not self.coarse):
                return False
            floors = {key: NOTHING * value for key, value in difference.floors.items()}
            if any(value > limits.get(key, 0.0) + floors.get(key, 0.0) for key, value in difference.figures.items()):
                return False
        return True

    @property
    def coarse(self) -> bool:
        """Whether the artifact is proved by another precision than float32."""
        return any("ulp" in table for table in self.baselines.values())

    def _nothing(self, baseline: Mapping[str, float], tolerance: Tolerance) -> dict[str, float]:
        """Return by how much an output may change and count as the same.

        In float32 that is a hundredth of its limit. A coarser precision cannot show what is less than PyTorch errs
        itself in it, or than the units in the last place that the rule always allows.
        """
        if self.coarse:
            floors = limits_of(dict.fromkeys(baseline, 0.0) | _units(baseline), Tolerance())
            return {key: max(baseline[key], floor) for key, floor in floors.items()}
        limits = limits_of(baseline, tolerance)
        return {key: NOTHING * value for key, value in limits.items() if key != "unexplained"}

    def _delivers_alike(self, subject: Subject) -> bool:
        assert subject.deliver is not None
        numbers = list(range(max(len(self.golden.raws), 1)))
        return list(subject.deliver(iter(numbers))) == numbers

    def _processes_alike(self, subject: Subject, golden: GoldenSamples) -> bool:
        known = self._processed(golden)
        with processing(subject):
            try:
                found = self._processed(golden)
            except ConvkitError:
                return False
        (tensors, documents), (others, actual) = known, found
        if [value.shape for value in tensors] != [value.shape for value in others]:
            return False
        alike = all(measure(one, other).rel_l2 <= SAME_TENSORS for one, other in zip(tensors, others, strict=True))
        return alike and not json_difference(documents, actual, SAME_NUMBERS, "")

    def _processed(self, golden: GoldenSamples) -> tuple[list[np.ndarray], list[Any]]:
        """Return the tensors of all raw inputs, and as JSON their metas and what the stored outputs decode to."""
        tensors: list[np.ndarray] = []
        documents: list[Any] = []
        decode = find_decode(self.spec.decode)
        for sizes, items in golden.samples.prepared.items():
            preprocess = find_preprocess(self.spec.preprocess, dict(sizes))
            prepared = [prepare(self.spec, preprocess, raw) for raw in golden.raws]
            tensors += [item.tensors[tensor.name] for item in prepared for tensor in self.spec.inputs]
            documents += [dict(item.meta) for item in prepared]
            if decode:
                documents += list(_decoded(decode, golden, sizes, items))
        return tensors, documents


def _decoded(decode: Decode, golden: GoldenSamples, sizes: Any, items: Any) -> Iterator[Any]:
    """Yield the results of stored outputs, one by one and as one batch."""
    spec, stored = golden.samples.spec, golden.outputs[sizes]
    for outputs, item in zip(stored, items, strict=True):
        yield decode_batch(decode, outputs, [item.meta])[0].to_json()
    if spec.batch.max > 1:
        together = {
            output.name: np.concatenate([row[output.name] for row in stored])
            if output.batched
            else stored[0][output.name]
            for output in spec.outputs
        }
        for result in decode_batch(decode, together, [item.meta for item in items]):
            yield result.to_json()


def _same_bits(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and value.tobytes() == other[name].tobytes()
        for name, value in one.items()
    )


def _units(baseline: Mapping[str, float]) -> dict[str, float]:
    """Return what a baseline says of the scale of an output and of the last place of its precision."""
    return {key: baseline[key] for key in ("scale", "ulp") if key in baseline}


def _used(check: Check) -> float:
    shares = [check.figures[key] / limit for key, limit in check.limits.items() if limit and math.isfinite(limit)]
    return max(shares, default=0.0)


def _figures(check: Check) -> str:
    """Return the figures of a check that are above their limit."""
    above = [key for key, value in check.figures.items() if not value <= check.limits.get(key, 0.0)]
    return ", ".join(f"{key} {check.figures[key]:.2g} above {check.limits.get(key, 0.0):.2g}" for key in above)
