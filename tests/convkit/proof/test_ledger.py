"""The ledger: the same samples after every stage, so that one sees where an error enters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from convkit import Detections, Dim, ModelSpec, TensorSpec
from convkit.proof import DECODED, Ledger, Verdict

SPEC = ModelSpec(
    "v",
    (Dim("batch", 1, 1, 4),),
    (TensorSpec("x", ("batch", 4)),),
    (TensorSpec("double", ("batch", 4)), TensorSpec("half", ("batch", 4))),
)
FEED = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
BASELINES = {name: {"max_abs": 1e-7, "rel_l2": 1e-7, "scale": 3.0} for name in ("double", "half")}


def stage(double: float = 2.0, half: float = 0.5):
    return lambda feed: {"double": feed["x"] * np.float32(double), "half": feed["x"] * np.float32(half)}


def right(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"double": feed["x"] * 2.0, "half": feed["x"] * 0.5}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(SPEC, FEED, [{}, {}])


def test_each_stage_is_compared_with_float64_and_with_the_one_before(ledger):
    ledger.add("first", stage())
    ledger.add("second", stage(double=2.02), "a note")
    ledger.add("third", stage(double=2.02))
    stages = ledger.stages(right, BASELINES)
    rows = {(row.name, row.output): row for row in stages}
    assert len(stages) == 6
    assert rows["first", "double"].against_previous == 0
    assert rows["first", "double"].against_float64 < 1e-7
    assert rows["second", "double"].against_previous == pytest.approx(0.01, rel=1e-4)
    assert rows["second", "double"].against_float64 == pytest.approx(0.01, rel=1e-4)
    assert rows["third", "double"].against_previous == 0
    assert rows["third", "double"].against_float64 == pytest.approx(0.01, rel=1e-4)
    assert [row.passed for row in stages] == [True, True, False, True, False, True]
    assert rows["second", "half"].note == "a note"


def test_the_verdict_names_the_stage_and_output_where_the_error_enters(ledger):
    for name, compute in (("exported", stage()), ("folded", stage(half=0.6)), ("fused", stage(half=0.6))):
        ledger.add(name, compute)
    verdict = Verdict("engine", "cpu", ledger=ledger.stages(right, BASELINES))
    assert not verdict.passed
    assert "the error enters at stage 'folded', output 'half'" in verdict.headline()


def test_the_limit_is_that_of_the_rule(ledger):
    ledger.add("first", stage())
    assert ledger.stages(right, BASELINES)[0].limit == pytest.approx(3e-7 + 4 * 2.0**-23)


@pytest.mark.parametrize(
    "broken",
    [
        lambda feed: {"double": np.full((2, 4), np.nan, np.float32), "half": feed["x"] * np.float32(0.5)},
        lambda feed: {"double": feed["x"][:1] * 2, "half": feed["x"] * np.float32(0.5)},
    ],
    ids=["NaN", "shape"],
)
def test_a_stage_without_numbers_fails(ledger, broken):
    ledger.add("broken", broken)
    first, _ = ledger.stages(right, BASELINES)
    assert first.against_float64 == np.inf
    assert not first.passed


def boxes(outputs: Mapping[str, np.ndarray], metas: Sequence[Mapping[str, Any]]) -> list[Detections]:
    assert [meta["row"] for meta in metas] == [0, 1]
    return [Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)) for rows in outputs["rows"]]


def test_outputs_that_are_compared_by_results_count_what_is_unexplained():
    by_results = TensorSpec("rows", ("batch", 20, 6), compare="results")
    spec = replace(SPEC, outputs=(by_results,), decode={"kind": "boxes"})
    rows = np.zeros((2, 20, 6), np.float32)
    rows[..., 0] = np.arange(20) * 30
    rows[..., 2:4] = rows[..., :1] + 20
    rows[..., 4] = np.linspace(0.9, 0.2, 20)
    baselines = {DECODED: {"unexplained": 0.0, "max_box": 1e-5, "max_score": 1e-7, "scale": 0.0}}
    metas = [{"row": 0}, {"row": 1}]
    ledger = Ledger(spec, FEED, metas)
    ledger.add("shuffled", lambda feed: {"rows": rows[:, ::-1]})
    wrong = rows.copy()
    wrong[0, 3, 5] = 1
    ledger.add("one class wrong", lambda feed: {"rows": wrong})
    first, second = ledger.stages(lambda feed: {"rows": rows}, baselines, boxes)
    assert first.passed
    assert not second.passed
    assert (second.against_float64, second.against_previous) == (2, 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: np.where(np.arange(6) == 5, np.nan, rows),
        lambda rows: np.where(np.arange(6) == 4, np.inf, rows),
        lambda rows: rows[:, :10],
    ],
    ids=["NaN", "infinite", "fewer rows"],
)
def test_outputs_that_are_compared_by_results_must_be_numbers_of_the_same_shape(change):
    """A decode may drop rows that are no numbers, or find no fault with them."""
    spec = replace(SPEC, outputs=(TensorSpec("rows", ("batch", 20, 6), compare="results"),), decode={"kind": "boxes"})
    rows = np.ones((2, 20, 6), np.float32)
    baselines = {DECODED: {"unexplained": 0.0}}
    ledger = Ledger(spec, FEED, [{"row": 0}, {"row": 1}])
    ledger.add("broken", lambda feed: {"rows": change(rows).astype(np.float32)})
    (stage,) = ledger.stages(lambda feed: {"rows": rows}, baselines, lambda *_: [])
    assert stage.against_float64 == np.inf
    assert not stage.passed


def test_where_pytorch_itself_overflows_no_stage_passes():
    baselines = {name: {"max_abs": np.inf, "rel_l2": np.inf, "scale": 1.0} for name in ("double", "half")}
    ledger = Ledger(SPEC, FEED, [{}, {}])
    ledger.add("first", stage(double=7.0))
    assert not any(row.passed for row in ledger.stages(right, baselines))
