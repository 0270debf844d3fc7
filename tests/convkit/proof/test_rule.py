"""The float64 rule: limits follow from PyTorch's own float32 error, and nothing undefined passes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convkit import TensorSpec, Tolerance
from convkit.proof import TensorError, baselines_of, judge, limits_of, measure, read_baselines
from convkit.results import Difference

HM = TensorSpec("hm", ("batch", 2))
ULP = 2.0**-23
positive = st.floats(0, 1e3)


def error(max_abs: float = 0.0, rel_l2: float = 0.0, scale: float = 1.0) -> TensorError:
    return TensorError(max_abs, rel_l2, scale)


FLOORS = {"max_box": 0.01, "max_score": 1e-4}


def match(
    unexplained: int = 0, ties: int = 0, max_box: float = 0.0, max_score: float = 0.0, note: str = ""
) -> Difference:
    figures = {"max_box": max_box, "max_score": max_score}
    return Difference(10, 10 - unexplained - ties, ties, unexplained, figures, FLOORS, note)


def test_baselines_are_the_worst_of_each_figure_over_all_runs():
    table = baselines_of(
        [
            {"hm": [error(1e-3, 1e-6, 5.0), error(2e-3, 1e-7, 9.0)], "boxes": [match(max_box=0.2)]},
            {"hm": [error(1e-4, 3e-6, 7.0)], "boxes": [match(max_box=0.1, max_score=0.3), match(unexplained=2)]},
        ]
    )
    assert table["hm"] == {"max_abs": 2e-3, "rel_l2": 3e-6, "scale": 9.0}
    assert table["boxes"] == {"unexplained": 2.0, "max_box": 0.2, "max_score": 0.3, "scale": 0.0}


@given(positive, positive, st.floats(0.01, 1e3), st.floats(1, 10), st.floats(0, 1))
def test_limits_are_the_documented_formula(max_abs, rel_l2, scale, factor, atol):
    limits = limits_of({"max_abs": max_abs, "rel_l2": rel_l2, "scale": scale}, Tolerance(factor, atol))
    assert limits["max_abs"] == pytest.approx(factor * max_abs + atol + 4 * ULP * scale)
    assert limits["rel_l2"] == pytest.approx(factor * rel_l2 + 4 * ULP + atol / scale)
    assert set(limits) == {"max_abs", "rel_l2"}


def test_figures_of_results_get_their_floors_on_top_of_three_times_the_baseline():
    baseline = {"unexplained": 1.0, "max_box": 0.1, "max_score": 1e-3, "scale": 0.0}
    assert limits_of(baseline, Tolerance(), FLOORS) == pytest.approx(
        {"unexplained": 3.0, "max_box": 0.31, "max_score": 3.1e-3}
    )
    assert limits_of(baseline, Tolerance()) == pytest.approx({"unexplained": 3.0, "max_box": 0.3, "max_score": 3e-3})


BASELINE = {"max_abs": 1e-5, "rel_l2": 1e-6, "scale": 10.0}


@pytest.mark.parametrize(
    ("measured", "passed"),
    [
        (error(), True),
        (error(3e-5, 3e-6), True),
        (error(3e-5 + 40 * ULP, 3e-6 + 4 * ULP), True),
        (error(4e-5, 1e-6), False),
        (error(1e-5, 4e-6), False),
        (error(math.inf, math.inf), False),
        (error(math.nan, 0.0), False),
        (error(0.0, math.nan), False),
    ],
)
def test_an_error_passes_up_to_its_limit(measured, passed):
    check = judge([measured], HM, "opt", BASELINE)
    assert check.passed is passed
    assert (check.kind, check.output, check.case) == ("values", "hm", "opt")
    assert set(check.figures) == set(check.limits) == {"max_abs", "rel_l2"}


def test_of_several_errors_the_worst_counts():
    assert not judge([error(), error(1.0, 1.0), error()], HM, "opt", BASELINE).passed


def test_the_adapters_tolerance_is_used():
    wide = TensorSpec("hm", (1,), tolerance=Tolerance(factor=100, reason="int8"))
    assert judge([error(9e-4, 9e-5)], wide, "opt", BASELINE).passed
    assert judge([error(0.5, 1e-6)], TensorSpec("hm", (1,), tolerance=Tolerance(atol=0.5)), "opt", BASELINE).passed


def test_a_perfect_baseline_leaves_four_units_in_the_last_place():
    perfect = {"max_abs": 0.0, "rel_l2": 0.0, "scale": 8.0}
    assert judge([error(4 * ULP * 8, 4 * ULP)], HM, "", perfect).passed
    assert not judge([error(5 * ULP * 8, 0)], HM, "", perfect).passed
    assert not judge([error(0, 5 * ULP)], HM, "", perfect).passed


@pytest.mark.parametrize("broken", [{"max_abs": math.inf, "rel_l2": math.inf, "scale": 1.0}, {}])
@pytest.mark.parametrize("measured", [error(1.0, 1.0), error(math.inf, math.inf)])
def test_where_pytorch_itself_overflows_nothing_is_proved(broken, measured):
    assert not judge([measured], HM, "opt", broken).passed


@pytest.mark.parametrize(
    ("measured", "passed"),
    [
        (match(), True),
        (match(ties=1), True),
        (match(max_box=0.009, max_score=9e-5), True),
        (match(unexplained=1), False),
        (match(max_box=0.02), False),
        (match(max_score=2e-4), False),
        (match(max_score=math.nan), False),
        (match(max_box=math.inf), False),
    ],
)
def test_decoded_results_pass_when_every_box_is_explained_and_close(measured, passed):
    baseline = {"unexplained": 0.0, "max_box": 0.0, "max_score": 0.0, "scale": 0.0}
    check = judge([match(), measured], None, "opt", baseline)
    assert check.passed is passed
    assert (check.kind, check.output) == ("decoded", "decoded results")


CEILINGS = {"max_box": 1.0, "max_score": 0.05}
WEAK = {"unexplained": 12.0, "max_box": 40.0, "max_score": 0.2, "scale": 0.0}
"""What PyTorch's own float32 makes of an untrained detector: it would excuse 36 boxes and 120 pixels."""


def many(unexplained: int = 0, max_box: float = 0.0, max_score: float = 0.0) -> Difference:
    figures = {"max_box": max_box, "max_score": max_score}
    return Difference(100, 100 - unexplained, 0, unexplained, figures, FLOORS, "", CEILINGS)


@pytest.mark.parametrize(
    ("measured", "state"),
    [
        (many(), "ok"),
        (many(unexplained=1, max_box=1.0, max_score=0.05), "ok"),
        (many(unexplained=2), "not comparable"),
        (many(max_box=1.01), "not comparable"),
        (many(max_score=0.06), "not comparable"),
        (many(unexplained=36, max_box=120, max_score=0.6), "not comparable"),
        (many(unexplained=37), "FAIL"),
        (many(max_box=121), "FAIL"),
        (many(unexplained=2, max_score=0.7), "FAIL"),
    ],
)
def test_beyond_its_ceiling_a_result_is_not_comparable_however_much_pytorch_deviates(measured, state):
    check = judge([many(), measured], None, "opt", WEAK)
    assert check.state == state
    assert check.passed is (state == "ok")
    assert check.limits == {"unexplained": 1.0, "max_box": 1.0, "max_score": 0.05}
    assert ("PyTorch's own deviation would allow" in check.note) is (state == "not comparable")


def test_the_ceiling_changes_nothing_where_pytorch_is_exact():
    exact = {"unexplained": 0.0, "max_box": 1e-3, "max_score": 1e-5, "scale": 0.0}
    check = judge([many(max_box=0.02)], None, "opt", exact)
    assert check.state == "FAIL"
    assert check.limits == pytest.approx({"unexplained": 0.0, "max_box": 0.013, "max_score": 1.3e-4})


def test_in_16_bits_the_ceiling_is_ten_times_as_high():
    check = judge([many(unexplained=10, max_box=10, max_score=0.5)], None, "opt", {**WEAK, "ulp": 2.0**-10})
    assert check.state == "ok"
    assert judge([many(unexplained=11)], None, "opt", {**WEAK, "ulp": 2.0**-10}).state == "not comparable"


def test_a_kind_without_ceilings_of_its_own_may_lose_one_result_of_a_hundred():
    lost = Difference(1, 0, 0, 1, note="result.name: 'a' and 'b'")
    assert judge([lost], None, "opt", {"unexplained": 1.0}).state == "not comparable"
    assert judge([Difference(1, 1, 0, 0)], None, "opt", {"unexplained": 1.0}).state == "ok"


def test_notes_count_matches_and_ties_and_locate_the_worst_value():
    baseline = {"unexplained": 0.0, "max_box": 0.0, "max_score": 0.0}
    assert judge([match(ties=1), match(unexplained=2)], None, "", baseline).note == "17 of 20 matched, 1 ties"
    reference = np.array([[1.0, 2.0], [3.0, 4.0]])
    wrong = judge([measure(reference, reference + np.array([[0, 0], [0.5, 0]]))], HM, "", BASELINE)
    assert wrong.note == "worst at [1, 0]: 3.5 where 3 is right"
    assert judge([measure(reference, np.full((2, 2), np.nan))], HM, "", BASELINE).note == "4 values are NaN"
    assert judge([error()], HM, "", BASELINE).note == ""
    assert (
        judge([match(note="result.name differs")], None, "", baseline).note == "10 of 10 matched; result.name differs"
    )


def test_a_figure_that_pytorch_never_had_must_be_zero():
    assert judge([Difference(1, 1, 0, 0, {"depth": 0.0})], None, "", {"unexplained": 0.0}).passed
    check = judge([Difference(1, 1, 0, 0, {"depth": 1e-9})], None, "", {"unexplained": 0.0})
    assert not check.passed
    assert check.limits["depth"] == 0


def test_a_check_may_be_called_otherwise():
    assert judge([error()], HM, "batch 2", BASELINE, kind="batch").kind == "batch"


@pytest.mark.parametrize("ulp", [2.0**-10, 2.0**-7])
def test_the_floor_is_that_of_the_precision_that_was_measured(ulp):
    table = baselines_of([{"hm": [error(1e-3, 1e-4, 8.0)]}], ulp)
    assert table["hm"]["ulp"] == ulp
    limits = limits_of(table["hm"], Tolerance())
    assert limits["max_abs"] == pytest.approx(3e-3 + 2 * ulp * 8)
    assert limits["rel_l2"] == pytest.approx(3e-4 + 2 * ulp)
    assert set(limits) == {"max_abs", "rel_l2"}
    again = read_baselines(json.loads(json.dumps(table)))
    assert again == table


def test_float32_baselines_say_nothing_of_their_precision():
    assert "ulp" not in baselines_of([{"hm": [error(1e-3)]}])["hm"]
