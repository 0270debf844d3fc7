"""Figures of one tensor against another: exact where they can be, infinite where nothing can be said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from convkit.proof import measure

shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)
floats = st.floats(-1e6, 1e6, width=32)


@given(st.data(), shapes)
def test_figures_equal_their_definitions(data, shape):
    reference = data.draw(hnp.arrays(np.float64, shape, elements=floats))
    value = data.draw(hnp.arrays(np.float32, shape, elements=floats))
    error = measure(reference, value)
    difference = np.abs(reference - value.astype(np.float64))
    assert error.max_abs == difference.max()
    assert error.scale == np.abs(reference).max()
    norm = math.sqrt(math.fsum((reference**2).flat))
    distance = math.sqrt(math.fsum((difference**2).flat))
    if norm:
        assert error.rel_l2 == pytest.approx(distance / norm, rel=1e-9)
    else:
        assert error.rel_l2 == (0 if distance == 0 else math.inf)
    assert difference[error.worst] == error.max_abs
    assert (error.expected, error.actual) == (reference[error.worst], value[error.worst])


@given(hnp.arrays(np.float32, shapes, elements=floats))
def test_a_tensor_has_no_error_against_itself(value):
    error = measure(value.astype(np.float64), value)
    assert (error.max_abs, error.rel_l2) == (0, 0)


def test_the_difference_is_not_computed_in_the_small_type():
    """In float16 itself 2048 + 1 is 2048; and int64 values beyond 2^53 are not what errors are made of."""
    assert measure(np.array([2049.0]), np.array([2048], np.float16)).max_abs == 1
    assert measure(np.array([3], np.int64), np.array([5], np.int64)).max_abs == 2
    assert measure(np.array([True, False]), np.array([True, True])).max_abs == 1


@pytest.mark.parametrize(
    ("reference", "value", "note"),
    [
        ([1.0, 2.0], [1.0, np.nan], "1 values are NaN"),
        ([1.0, np.nan], [1.0, 2.0], "1 values of the reference are NaN"),
        ([np.nan], [np.nan], "NaN"),
        ([1.0, 2.0], [1.0], "shape (1,) where (2,) is expected"),
        ([[1.0]], [1.0], "shape (1,) where (1, 1) is expected"),
        ([1.0], [np.inf], ""),
        ([np.inf], [1.0], ""),
        ([np.inf], [-np.inf], ""),
    ],
)
def test_what_cannot_be_compared_is_infinitely_wrong(reference, value, note):
    error = measure(np.array(reference), np.array(value))
    assert (error.max_abs, error.rel_l2) == (math.inf, math.inf)
    assert note in error.note


def test_an_infinity_that_both_have_is_no_error():
    error = measure(np.array([np.inf, -np.inf, 3.0]), np.array([np.inf, -np.inf, 4.0]))
    assert (error.max_abs, error.scale, error.worst) == (1, 3, (2,))


def test_empty_tensors_agree_if_their_shapes_do():
    assert measure(np.zeros((0, 4)), np.zeros((0, 4))).max_abs == 0
    assert measure(np.zeros((0, 4)), np.zeros((0, 5))).max_abs == math.inf


def test_an_error_is_true_even_when_it_is_zero_and_becomes_json():
    """polygraphy asks the truth of what a comparison returns; the judgement is not its business."""
    error = measure(np.ones((2, 2)), np.ones((2, 2)))
    assert bool(error)
    assert json.loads(json.dumps(error.to_json()))["worst"] == [0, 0]
