"""Results: their JSON, their summaries and their drawings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from convkit.results import Classification, Detections, Result


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


def test_classification_ranks_ties_in_class_order():
    result = Classification(np.array([0.2, 0.35, 0.1, 0.35], np.float32), ("a", "b", "c"), top=3)
    assert [(i, name) for i, name, _ in result.best()] == [(1, "b"), (3, "3"), (0, "a")]
    assert result.summary() == "b (0.35)"
    many = Classification(np.tile(np.array([0.3, 0.1, 0.3, 0.2], np.float32), 25), top=50)
    assert [class_id for class_id, _, _ in many.best()] == [i for i in range(100) if i % 4 in (0, 2)]
    assert [row["class_id"] for row in json.loads(json.dumps(result.to_json()))["classes"]] == [1, 3, 0]


def test_drawing_returns_a_changed_copy(detections):
    image = np.full((80, 80, 3), 127, np.uint8)
    for result in (detections, Classification(np.array([0.5, 0.5], np.float32), ("a", "b"))):
        assert isinstance(result, Result)
        drawn = result.draw(image)
        assert drawn.shape == image.shape
        assert (drawn != image).any()
        assert (image == 127).all()
