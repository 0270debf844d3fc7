"""What every result can do: JSON, a summary, a threshold, a drawing, a comparison."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from convkit.results import SLACK, Classification, Detections, Difference, Result, json_difference


@pytest.fixture
def detections() -> Detections:
    return Detections(
        boxes=np.array([[10, 20, 50, 60], [5, 5, 25, 30], [0, 0, 8, 8]], np.float32),
        scores=np.array([0.9, 0.5, 0.25], np.float32),
        class_ids=np.array([1, 0, 1], np.int64),
        classes=("cat", "dog"),
    )


def test_detections_become_the_documented_json(detections):
    document = json.loads(json.dumps(detections.to_json()))
    assert document["detections"][0] == {
        "class_id": 1,
        "class_name": "dog",
        "score": pytest.approx(0.9),
        "box": [10.0, 20.0, 50.0, 60.0],
    }
    assert [row["class_name"] for row in document["detections"]] == ["dog", "cat", "dog"]


def test_a_threshold_keeps_scores_at_or_above_it(detections):
    kept = detections.above(0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5])
    assert kept.boxes.shape == (2, 4)
    assert kept.classes == detections.classes
    assert len(detections) == 3


def test_summaries_count_by_class_most_frequent_first(detections):
    assert detections.summary() == "3 detections: 2 dog, 1 cat"
    assert detections.above(0.95).summary() == "0 detections"
    assert detections.above(0.9 - 1e-6).summary() == "1 detection: 1 dog"


@pytest.mark.parametrize(("class_id", "name"), [(0, "cat"), (1, "dog"), (2, "2"), (-1, "-1")])
def test_a_class_without_a_name_is_called_by_its_number(detections, class_id, name):
    assert detections.class_name(class_id) == name


def test_drawing_returns_a_changed_copy(detections):
    image = np.full((80, 80, 3), 127, np.uint8)
    for result in (detections, Classification(np.array([0.5, 0.5], np.float32), ("a", "b"))):
        assert isinstance(result, Result)
        drawn = result.draw(image)
        assert drawn.shape == image.shape
        assert (drawn != image).any()
        assert (image == 127).all()


class Custom(Result):
    """A result of a kind that convkit does not know."""

    def __init__(self, **content: Any) -> None:
        self.content = content

    def to_json(self) -> dict[str, Any]:
        return self.content

    def summary(self) -> str:
        return "custom"


CUSTOM = Custom(depth=[1.0, 2.0], name="a")


@pytest.mark.parametrize(
    ("candidate", "note"),
    [
        (Custom(depth=[1.0, 2.0], name="a"), ""),
        (Custom(depth=[1.0, 2.00001], name="a"), ""),
        (Custom(depth=[1.0, 2.1], name="a"), "result.depth[1]: 2.0 and 2.1"),
        (Custom(depth=[1.0], name="a"), "result.depth"),
        (Custom(depth=[1.0, 2.0], name="b"), "result.name: 'a' and 'b'"),
        (Custom(depth=[1.0, math.nan], name="a"), "result.depth[1]"),
        (Custom(depth=[1.0, 2.0]), "result"),
        (Classification(np.ones(1, np.float32)), "result"),
    ],
)
def test_by_default_results_are_compared_by_their_json(candidate, note):
    error = CUSTOM.compare(candidate)
    assert error.note.startswith(note)
    assert (error.expected, error.matched, error.ties, error.unexplained) == (1, int(not note), 0, int(bool(note)))
    assert error.figures == error.floors == {}


def test_the_slack_of_a_comparison_decides():
    other = Custom(depth=[1.0, 2.01], name="a")
    assert CUSTOM.compare(other).unexplained
    assert not CUSTOM.compare(other, slack=1e-2).unexplained


def test_by_default_a_result_is_kept_whole_and_is_not_drawn():
    assert CUSTOM.above(0.99) is CUSTOM
    assert CUSTOM.draw(np.zeros((8, 8, 3), np.uint8)) is None


@pytest.mark.parametrize("missing", ["to_json", "summary"])
def test_a_result_must_have_json_and_a_summary(missing):
    table = {"to_json": Custom.to_json, "summary": Custom.summary}
    with pytest.raises(TypeError, match=missing):
        type("Incomplete", (Result,), {key: value for key, value in table.items() if key != missing})()


@pytest.mark.parametrize(
    ("expected", "actual", "where"),
    [
        ({"a": [1.0, {"b": 2.0}]}, {"a": [1.0, {"b": 2.0 + SLACK}]}, ""),
        ({"a": [1.0, {"b": 2.0}]}, {"a": [1.0, {"b": 2.0 + 3 * SLACK}]}, "it.a[1].b"),
        (1000.0, 1000.05, ""),  # relative above 1 …
        (1000.0, 1000.2, "it"),
        (1e-6, 5e-5, ""),  # … and absolute below
        (0.0, 2 * SLACK, "it"),
        (1.0, 1, ""),
        (1, 2, "it"),
        (True, False, "it"),
        (None, None, ""),
        (None, 0.0, "it"),
        ("a", "A", "it"),
        ([], [], ""),
        ([1.0], [1.0, 1.0], "it"),
        ({"a": 1.0}, {"b": 1.0}, "it"),
        ({"a": 1.0}, [1.0], "it"),
        (math.nan, math.nan, "it"),
        (math.inf, math.inf, ""),
        (math.inf, 1.0, "it"),
        (1.0, math.inf, "it"),
        (1.0, "1.0", "it"),
    ],
)
def test_the_first_difference_of_two_documents_is_named(expected, actual, where):
    found = json_difference(expected, actual, SLACK, "it")
    assert found.partition(":")[0] == where


def test_what_differs_is_named_in_a_line_however_long_it_is():
    mask, other = {"starts": list(range(200_000))}, {"starts": list(range(199_999))}
    assert json_difference(mask, other, SLACK, "it") == "it.starts: 200000 items and 199999"
    found = json_difference({"text": "a" * 10_000, "ids": 1}, {"text": ["b" * 10_000], "ids": 1}, SLACK, "it")
    assert found.startswith("it.text: 'aaa")
    assert len(found) < 200


def test_a_difference_becomes_json():
    difference = Difference(3, 2, 1, 0, {"max_box": 0.5}, {"max_box": 0.01}, "note", {"max_box": 1.0})
    assert json.loads(json.dumps(difference.to_json())) == {
        "expected": 3,
        "matched": 2,
        "ties": 1,
        "unexplained": 0,
        "figures": {"max_box": 0.5},
        "floors": {"max_box": 0.01},
        "note": "note",
        "ceilings": {"max_box": 1.0},
    }
