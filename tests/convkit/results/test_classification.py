"""Classifications: their ranking, and how two of them are compared."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from convkit.results import SLACK, Classification


def classes(*probabilities: float) -> Classification:
    return Classification(np.array(probabilities, np.float32))


@pytest.mark.parametrize(
    ("candidate", "matched", "ties", "unexplained", "max_score"),
    [
        (classes(0.7, 0.2, 0.1), 1, 0, 0, 0.0),
        (classes(0.6, 0.3, 0.1), 1, 0, 0, 0.1),
        (classes(0.2, 0.7, 0.1), 0, 0, 1, 0.5),
        (classes(math.nan, 0.2, 0.1), 1, 0, 0, math.inf),
        (classes(0.7, math.nan, 0.1), 0, 0, 1, math.inf),
    ],
)
def test_classes_agree_when_the_best_one_does(candidate, matched, ties, unexplained, max_score):
    error = classes(0.7, 0.2, 0.1).compare(candidate)
    assert (error.expected, error.matched, error.ties, error.unexplained) == (1, matched, ties, unexplained)
    assert error.figures == {"max_score": pytest.approx(max_score, abs=1e-6)}
    assert error.floors == {"max_score": SLACK}


def test_two_equally_likely_classes_are_a_tie_within_the_slack():
    first, second = classes(0.40002, 0.40000, 0.2), classes(0.40000, 0.40002, 0.2)
    error = first.compare(second)
    assert (error.matched, error.ties, error.unexplained) == (0, 1, 0)
    assert first.compare(second, slack=1e-6).unexplained == 1


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_classes_differs(count):
    error = classes(0.7, 0.2, 0.1).compare(Classification(np.full(count, 1 / count, np.float32)))
    assert (error.matched, error.ties, error.unexplained) == (0, 0, 1)
    assert error.note == f"3 classes and {count}"


def test_classification_ranks_ties_in_class_order():
    result = Classification(np.array([0.2, 0.35, 0.1, 0.35], np.float32), ("a", "b", "c"), top=3)
    assert [(i, name) for i, name, _ in result.best()] == [(1, "b"), (3, "3"), (0, "a")]
    assert result.summary() == "b (0.35)"
    many = Classification(np.tile(np.array([0.3, 0.1, 0.3, 0.2], np.float32), 25), top=50)
    assert [class_id for class_id, _, _ in many.best()] == [i for i in range(100) if i % 4 in (0, 2)]
    assert [row["class_id"] for row in json.loads(json.dumps(result.to_json()))["classes"]] == [1, 3, 0]
