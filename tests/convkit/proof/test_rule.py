"""The float64 rule: limits follow from PyTorch's own float32 error, and nothing undefined passes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from convkit.proof._errors import TensorError
from hypothesis import given
from hypothesis import strategies as st

from convkit import TensorSpec, Tolerance
from convkit.proof import MatchError, measure
from convkit.proof._rule import judge, limits_of, yardsticks_of

HM = TensorSpec("hm", ("batch", 2))
ULP = 2.0**-23
positive = st.floats(0, 1e3)


def error(max_abs: float = 0.0, rel_l2: float = 0.0, scale: float = 1.0) -> TensorError:
    return TensorError(max_abs, rel_l2, scale)


def match(unexplained: int = 0, ties: int = 0, max_box: float = 0.0, max_score: float = 0.0) -> MatchError:
    return MatchError(10, 10 - unexplained - ties, ties, unexplained, max_box, max_score)


def test_yardsticks_are_the_worst_of_each_figure_over_all_runs():
    table = yardsticks_of(
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


def test_decoded_results_get_a_hundredth_of_a_pixel_and_a_ten_thousandth_of_score():
    limits = limits_of({"unexplained": 1.0, "max_box": 0.1, "max_score": 1e-3, "scale": 0.0}, Tolerance())
    assert limits == pytest.approx({"unexplained": 3.0, "max_box": 0.31, "max_score": 3.1e-3})


YARD = {"max_abs": 1e-5, "rel_l2": 1e-6, "scale": 10.0}


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
    check = judge([measured], HM, "opt", YARD)
    assert check.passed is passed
    assert (check.kind, check.output, check.case) == ("values", "hm", "opt")
    assert set(check.figures) == set(check.limits) == {"max_abs", "rel_l2"}


def test_of_several_errors_the_worst_counts():
    assert not judge([error(), error(1.0, 1.0), error()], HM, "opt", YARD).passed


def test_the_adapters_tolerance_is_used():
    wide = TensorSpec("hm", (1,), tolerance=Tolerance(factor=100, reason="int8"))
    assert judge([error(9e-4, 9e-5)], wide, "opt", YARD).passed
    assert judge([error(0.5, 1e-6)], TensorSpec("hm", (1,), tolerance=Tolerance(atol=0.5)), "opt", YARD).passed


def test_a_perfect_yardstick_leaves_four_units_in_the_last_place():
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
    yard = {"unexplained": 0.0, "max_box": 0.0, "max_score": 0.0, "scale": 0.0}
    check = judge([match(), measured], None, "opt", yard)
    assert check.passed is passed
    assert (check.kind, check.output) == ("decoded", "decoded results")


def test_notes_count_matches_and_ties_and_locate_the_worst_value():
    yard = {"unexplained": 0.0, "max_box": 0.0, "max_score": 0.0}
    assert judge([match(ties=1), match(unexplained=2)], None, "", yard).note == "17 of 20 matched, 1 ties"
    reference = np.array([[1.0, 2.0], [3.0, 4.0]])
    wrong = judge([measure(reference, reference + np.array([[0, 0], [0.5, 0]]))], HM, "", YARD)
    assert wrong.note == "worst at [1, 0]: 3.5 where 3 is right"
    assert judge([measure(reference, np.full((2, 2), np.nan))], HM, "", YARD).note == "4 values are NaN"
    assert judge([error()], HM, "", YARD).note == ""


def test_a_check_may_be_called_otherwise():
    assert judge([error()], HM, "batch 2", YARD, kind="batch").kind == "batch"
