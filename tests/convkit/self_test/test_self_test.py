"""The self-test on small artifacts of four kinds, and what it says of a proof that is too loose or too tight."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.imprecise import change_onnxruntime
from support.plugins import registered
from support.toy import toy_weights

from convkit import Artifact, convert
from convkit.errors import SettingError, ValidationError
from convkit.files import sha256
from convkit.plugins import manager
from convkit.proof import Layers, Verdict
from convkit.self_test import FAULTS, VARIANTS, Fault, SelfTest, Site, Subject, Variant, self_test

SMALL = {"toy": "toy_artifact", "blobs": "blob_artifact", "pair": "pair_artifact", "embedding": "embedding_artifact"}
KIND = {fault.kind: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def plugins(
    toy_artifact: Artifact, blob_artifact: Artifact, pair_artifact: Artifact, embedding_artifact: Artifact
) -> Iterator[None]:
    """All small adapters, installed for the module once their artifacts are made."""
    from support.blobs import BlobPlugin
    from support.embedding import EmbeddingPlugin
    from support.pair import PairPlugin
    from support.toy import ToyPlugin

    with (
        registered(ToyPlugin()),
        registered(BlobPlugin(), "blobs"),
        registered(PairPlugin(), "pair"),
        registered(EmbeddingPlugin(), "embedding"),
    ):
        yield


@pytest.fixture(scope="module", params=list(SMALL))
def small(plugins: None, request: pytest.FixtureRequest) -> SelfTest:
    """The whole self-test of one small artifact."""
    return self_test(request.getfixturevalue(SMALL[request.param]).path)


@pytest.mark.slow
def test_every_fault_is_caught(small: SelfTest) -> None:
    missed = [f"{each.kind}: {one.where}" for each in small.outcomes for one in each.planted if not one.caught]
    assert missed == []
    assert small.caught == small.faults >= 25


@pytest.mark.slow
def test_no_alarm_is_false(small: SelfTest) -> None:
    rejected = [f"{one.name}: {one.by} {one.note}" for one in small.variants if one.applies and not one.passed]
    assert rejected == []
    assert small.clean >= 40
    assert small.passed


@pytest.mark.slow
def test_every_fault_says_where_and_what_noticed_it(small: SelfTest) -> None:
    for outcome in small.outcomes:
        assert outcome.cause
        assert outcome.applies or outcome.reason
        assert all(one.where and one.by for one in outcome.planted)
    for variant in small.variants:
        assert variant.applies or variant.reason
        assert 0 <= variant.used <= 1


def test_kinds_and_variants_have_names_of_their_own() -> None:
    assert len({fault.kind for fault in FAULTS}) == len(FAULTS) >= 60
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS) >= 60
    assert {fault.part for fault in FAULTS} == {"graph", "engine", "preprocess", "decode", "pipeline"}


def planted(kind: str, make: Callable[[Any], Subject]) -> Fault:
    """Return a fault with one place."""
    return Fault(kind, "engine", "a test", lambda judge, rng: iter([Site("here", lambda: make(judge))]))


def test_a_fault_that_changes_nothing_is_not_counted_and_said(plugins: None, toy_artifact: Artifact) -> None:
    test = self_test(toy_artifact.path, faults=[planted("none", lambda judge: Subject(run=judge.run))], variants=())
    (outcome,) = test.outcomes
    assert (outcome.applies, outcome.caught, outcome.without_effect) == (False, False, ["here"])
    assert outcome.reason == "changes nothing here"
    assert (test.faults, test.passed) == (0, False)


@pytest.mark.parametrize(("share", "applies"), [(0.3, True), (0.003, False)])
def test_a_fault_below_the_limit_is_missed_unless_it_is_below_a_hundredth(
    plugins: None, toy_artifact: Artifact, share: float, applies: bool
) -> None:
    """A third of a limit is seen by nobody, and the self-test has to say so."""

    def make(judge: Any) -> Subject:
        from convkit.proof import limits_of

        (output,) = judge.spec.outputs
        step = share * limits_of(judge.baselines[output.name], output.tolerance)["max_abs"]

        def run(feed: Any) -> Any:
            found = judge.run(feed)
            found[output.name].flat[0] += step
            return found

        return Subject(run=run)

    test = self_test(toy_artifact.path, faults=[planted("small", make)], variants=())
    (outcome,) = test.outcomes
    assert (outcome.applies, outcome.caught, test.faults, test.caught) == (applies, False, int(applies), 0)
    assert not test.passed


def test_onnxruntime_is_no_clean_variant_where_it_misses_the_limits_itself(
    plugins: None, toy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [variant for variant in VARIANTS if "ONNX Runtime" in variant.name]
    change_onnxruntime(monkeypatch, lambda value: value * 1.001)
    test = self_test(toy_artifact.path, backend="torch", faults=[KIND["RGB for BGR"]], variants=variants)
    assert {variant.reason for variant in test.variants} == {
        "ONNX Runtime misses the limits itself, so it proves nothing of this artifact"
    }
    assert (test.clean, test.false_alarms, test.caught) == (0, 0, 1)


def test_a_variant_that_computes_something_else_is_a_false_alarm(plugins: None, toy_artifact: Artifact) -> None:
    def make(judge: Any) -> Subject:
        return Subject(run=lambda feed: {name: value * 1.01 for name, value in judge.run(feed).items()})

    test = self_test(toy_artifact.path, faults=[KIND["RGB for BGR"]], variants=[Variant("off", "test", make)])
    assert (test.clean, test.false_alarms, test.caught, test.passed) == (1, 1, 1, False)
    assert "values logits" in test.variants[0].by
    assert test.headline().endswith("false alarms 1 of 1")


def test_a_loose_proof_misses_faults(plugins: None, toy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits that are 1e5 times as wide as measured, and layers unknown, a layer that is 1 % off passes."""
    original = Verdict.from_json

    def loose(document: Any) -> Verdict:
        verdict = original(document)
        wide = {name: {key: 1e5 * value for key, value in row.items()} for name, row in verdict.baselines.items()}
        return dataclasses.replace(verdict, baselines=wide)

    monkeypatch.setattr(Verdict, "from_json", loose)
    monkeypatch.setattr(Layers, "load", lambda artifact: None)
    test = self_test(toy_artifact.path, faults=[KIND["a layer scaled by 1.01"], KIND["output negated"]], variants=())
    assert [outcome.caught for outcome in test.outcomes] == [False, True]
    assert all(bool(one.by) == one.caught for one in test.outcomes[0].planted)


def test_an_artifact_that_fails_itself_is_not_tested(
    plugins: None, toy_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support.toy import Resize

    original = Resize.__init__

    def newer(self: Resize, spec: Any) -> None:
        original(self, spec)
        self.scale *= 1.02

    monkeypatch.setattr(Resize, "__init__", newer)
    with pytest.raises(ValidationError, match="fails its proof here"):
        self_test(toy_artifact.path)


def test_nothing_of_the_artifact_or_of_the_plugins_is_left_changed(
    plugins: None, toy_artifact: Artifact, tmp_path: Path
) -> None:
    copy = tmp_path / "toy"
    shutil.copytree(toy_artifact.path, copy)
    before = {path: sha256(path) for path in copy.rglob("*") if path.is_file()}
    names = [info.name for info in manager().infos()]
    faults = [KIND[kind] for kind in ("RGB for BGR", "class shift", "wrong interpolation", "bias dropped")]
    assert self_test(copy, faults=faults, variants=VARIANTS[:1]).passed
    assert {path: sha256(path) for path in copy.rglob("*") if path.is_file()} == before
    assert [info.name for info in manager().infos()] == names


def test_the_seed_chooses_the_places(plugins: None, toy_artifact: Artifact) -> None:
    def places(seed: int) -> list[str]:
        faults = [KIND["channels swapped"], KIND["one channel zeroed"]]
        test = self_test(toy_artifact.path, seed=seed, faults=faults, variants=())
        return [one.where for outcome in test.outcomes for one in outcome.planted]

    assert places(0) == places(0)
    assert len({tuple(places(seed)) for seed in range(3)}) > 1


def test_engines_that_were_built_are_refused(plugins: None, toy_artifact: Artifact) -> None:
    with pytest.raises(SettingError, match="runs engines that it built"):
        self_test(toy_artifact.path, backend="tensorrt-rtx")


TYPED = {
    "fp16": ["float16 clamp", "a float32 island missing"],
    "int8": ["float16 clamp", "a scale wrong by 2"],
}


@pytest.fixture(scope="module", params=list(TYPED))
def typed(plugins: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Artifacts of the toy in float16, with a last layer that leaves its range and so is float32, and in int8."""
    folder = tmp_path_factory.mktemp("typed")
    state = toy_weights()
    if request.param == "fp16":
        for name, factor in {"body.weight": 300, "body.bias": 300, "head.weight": 1e5}.items():
            state[name] *= factor
    torch.save(state, folder / "toy.pth")
    done = convert("toy", weights=folder / "toy.pth", output=folder / "toy", precision=request.param)
    return request.param, done.artifact.path


def test_the_faults_of_a_precision_are_caught_in_it_and_nothing_clean_is_rejected(typed: tuple[str, Path]) -> None:
    precision, path = typed
    kinds = [*TYPED[precision], "channels swapped", "activation dropped", "RGB for BGR", "output negated"]
    variants = [variant for variant in VARIANTS if variant.group == "graphs"][:12]
    test = self_test(path, faults=[KIND[kind] for kind in kinds], variants=variants)
    assert test.backend == "torch"
    assert [(each.kind, each.reason, each.planted) for each in test.outcomes if not each.caught] == []
    assert [f"{one.name}: {one.by} {one.note}" for one in test.variants if one.applies and not one.passed] == []
    assert test.clean >= 6
    assert test.passed


def test_what_a_precision_cannot_show_is_nothing_in_it(typed: tuple[str, Path]) -> None:
    """Less than PyTorch errs itself in that precision, and more than a hundredth of the limit."""

    def make(judge: Any) -> Subject:
        (output,) = judge.spec.outputs
        step = 0.5 * judge.baselines[output.name]["max_abs"]

        def run(feed: Any) -> Any:
            found = judge.run(feed)
            found[output.name].flat[0] += step
            return found

        return Subject(run=run)

    (outcome,) = self_test(typed[1], faults=[planted("small", make)], variants=()).outcomes
    assert (outcome.applies, outcome.without_effect) == (False, ["here"])
