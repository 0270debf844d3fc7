"""When two tensors count as the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convkit.backends.tensorrt._judge import judge_tensor

X = np.linspace(-2, 3, 11, dtype=np.float32)


def judge(expected: np.ndarray, actual: np.ndarray, dtype: str = "FLOAT", wide: np.ndarray | None = None):
    exact = actual.astype(np.float64) if actual.dtype.kind == "f" else actual
    return judge_tensor(expected, actual, exact if wide is None else wide, dtype)


def test_rounding_is_let_through():
    assert judge(X, np.nextafter(X, np.float32(9))).passed


def test_more_than_rounding_is_not():
    verdict = judge(X, X * np.float32(1 + 1e-4))
    assert not verdict.passed
    assert verdict.error > verdict.limit > 0
    assert verdict.expected == pytest.approx(X[verdict.place])


def test_an_ill_conditioned_network_may_err_as_much_as_it_errs_itself():
    noise = np.float32(1e-3) * np.array([1, -1] * 5 + [1], np.float32)
    wide = X.astype(np.float64)
    assert judge_tensor(X - 2 * noise, X + noise, wide, "FLOAT").passed
    assert not judge_tensor(X - 20 * noise, X + noise, wide, "FLOAT").passed


def test_a_small_value_is_not_hidden_by_a_large_one():
    expected = np.array([1000.0, 0.5], np.float32)
    assert not judge(expected, np.array([1000.0, 0.51], np.float32)).passed


@pytest.mark.parametrize(("expected", "actual", "same"), [
    (np.nan, np.nan, True), (np.inf, np.inf, True), (-np.inf, np.inf, False), (np.nan, 1.0, False),
    (1.0, np.nan, False), (np.inf, 3.4e38, False),
])  # fmt: skip
def test_what_is_no_number(expected, actual, same):
    pair = [np.array([value, 1.0], np.float32) for value in (expected, actual)]
    assert judge(*pair).passed is same


def test_integers_have_no_tolerance():
    numbers = np.array([1, 2, 2**60])
    assert judge(numbers, numbers, "INT64").passed
    verdict = judge(numbers, numbers + np.array([0, 0, 1]), "INT64")
    assert not verdict.passed
    assert verdict.place == (2,)


def test_types_and_shapes_have_to_fit():
    assert "uint8 is expected, and INT8 is built" in judge(X.astype(np.uint8), X.astype(np.int8), "INT8").note
    assert "(11,) is expected, and (1, 11)" in judge(X, X[None]).note


def test_float64_is_built_as_float32():
    assert judge(X.astype(np.float64), X).passed


def test_nothing_is_the_same_as_nothing():
    assert judge(X[:0], X[:0]).passed


def test_verdicts_are_json():
    verdict = judge(np.array([np.nan], np.float32), np.array([1.0], np.float32))
    assert json.loads(json.dumps(verdict.to_json(), allow_nan=False))["expected"] == "nan"


def test_rounding_seen_before_counts():
    off = X + np.float32(5e-3)
    assert not judge_tensor(X, off, off, "FLOAT").passed
    assert judge_tensor(X, off, off, "FLOAT", rounding=1e-3).passed
    assert not judge_tensor(X, off, off, "FLOAT", rounding=1e-4).passed
