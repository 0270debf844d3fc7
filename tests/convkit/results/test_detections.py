"""Detections compared by matching: order does not matter, and every planted difference is seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convkit.results import SLACK, Classification, Detections, box_iou

pytestmark = pytest.mark.filterwarnings("error")


def make(boxes: Any, scores: Any, classes: Any) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(scores, np.float32), np.asarray(classes, np.int64)
    )


@st.composite
def scenes(draw: st.DrawFn, least: int = 0, most: int = 20) -> Detections:
    """Draw boxes on a grid of separate places, with scores that differ clearly."""
    count = draw(st.integers(least, most))
    cells = draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True))
    sizes = draw(st.lists(st.floats(8, 40), min_size=2 * count, max_size=2 * count))
    classes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    corners = np.array([[cell % 10 * 50, cell // 10 * 50] for cell in cells], float).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + np.array(sizes).reshape(-1, 2)], 1)
    return make(boxes, np.linspace(0.95, 0.3, count), classes)


def select(scene: Detections, order: Any) -> Detections:
    return Detections(scene.boxes[order], scene.scores[order], scene.class_ids[order])


@given(scenes())
def test_a_set_matches_itself_completely(scene):
    error = scene.compare(scene)
    assert (error.expected, error.matched, error.ties, error.unexplained) == (len(scene), len(scene), 0, 0)
    assert error.figures == {"max_box": 0, "max_score": 0}


@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_rows_means_nothing(scene, random):
    order = list(range(len(scene)))
    random.shuffle(order)
    error = scene.compare(select(scene, np.array(order, np.int64)))
    assert (error.matched, error.ties, error.unexplained) == (len(scene), 0, 0)


@given(scenes(least=1), st.floats(-0.4, 0.4), st.floats(-9e-5, 9e-5))
def test_small_differences_are_measured_and_not_counted(scene, shift, change):
    moved = Detections(scene.boxes + np.float32(shift), scene.scores + np.float32(change), scene.class_ids)
    error = scene.compare(moved)
    assert (error.matched, error.unexplained) == (len(scene), 0)
    assert error.figures["max_box"] == pytest.approx(abs(shift), abs=1e-4)
    assert error.figures["max_score"] == pytest.approx(abs(change), abs=1e-6)


def other_class(scene: Detections, index: int) -> Detections:
    classes = scene.class_ids.copy()
    classes[index] += 1
    return Detections(scene.boxes, scene.scores, classes)


def moved(scene: Detections, index: int) -> Detections:
    boxes = scene.boxes.copy()
    boxes[index] += 25
    return Detections(boxes, scene.scores, scene.class_ids)


def larger(scene: Detections, index: int) -> Detections:
    boxes = scene.boxes.copy()
    boxes[index, 2:] += 10
    return Detections(boxes, scene.scores, scene.class_ids)


def swapped_axes(scene: Detections, index: int) -> Detections:
    boxes = scene.boxes.copy()
    boxes[index] = boxes[index][[1, 0, 3, 2]]
    return Detections(boxes, scene.scores, scene.class_ids)


def missing(scene: Detections, index: int) -> Detections:
    return select(scene, np.arange(len(scene)) != index)


def doubled(scene: Detections, index: int) -> Detections:
    return select(scene, np.append(np.arange(len(scene)), index))


def broken(scene: Detections, index: int) -> Detections:
    boxes = scene.boxes.copy()
    boxes[index, 1] = np.nan
    return Detections(boxes, scene.scores, scene.class_ids)


FAULTS = [other_class, moved, larger, swapped_axes, missing, doubled, broken]


@pytest.mark.parametrize("fault", FAULTS)
@given(data=st.data())
def test_one_wrong_box_among_few_is_unexplained(fault, data):
    """Also when it is the weakest one, or the only one."""
    scene = data.draw(scenes(least=1, most=8))
    index = data.draw(st.integers(0, len(scene) - 1))
    wrong = fault(scene, index)
    assume(fault is not swapped_axes or not np.allclose(wrong.boxes, scene.boxes, atol=8))  # as good as a square
    for error in (scene.compare(wrong), wrong.compare(scene)):
        assert error.unexplained > 0
        assert error.matched < max(len(scene), len(wrong))


@pytest.mark.parametrize("fault", FAULTS)
def test_one_wrong_box_among_many_is_unexplained_unless_a_tie_could_have_caused_it(fault):
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2) * 50.0
    sizes = rng.uniform([8, 20], [18, 40], (100, 2))
    scene = make(np.concatenate([corners, corners + sizes], 1), np.linspace(0.95, 0.3, 100), rng.integers(0, 3, 100))
    error = scene.compare(fault(scene, 40))
    assert error.matched in (99, 100)
    if fault in (larger, doubled):  # same place, class and score: so look two cells of a plateau
        assert error.ties > 0
        assert error.unexplained == 0
    else:
        assert error.unexplained > 0


@pytest.mark.parametrize(
    "fault",
    [
        lambda boxes: boxes * [1, 1, 1.5, 1.5],
        lambda boxes: boxes + 5,
        lambda boxes: boxes - [4, 4, 0, 0],
        lambda boxes: boxes[:, [1, 0, 3, 2]],
        lambda boxes: boxes * 2,
    ],
    ids=["larger", "shifted", "grown", "axes swapped", "stale stride"],
)
def test_a_fault_of_all_boxes_is_not_excused_as_a_hundred_ties(fault):
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 400, (100, 2))
    boxes = np.concatenate([corners, corners + rng.uniform([10, 30], [30, 60], (100, 2))], 1)
    scene = make(boxes, np.linspace(0.9, 0.01, 100), rng.integers(0, 80, 100))
    error = scene.compare(make(fault(boxes), scene.scores, scene.class_ids))
    assert error.unexplained > 50


def test_where_all_scores_are_at_the_cut_boxes_are_compared_all_the_same():
    """An empty scene gives a hundred boxes of next to no score; they still have to lie where they should."""
    rng = np.random.default_rng(2)
    corners = rng.uniform(0, 400, (100, 2))
    boxes = np.concatenate([corners, corners + 20], 1)
    scene = make(boxes, rng.uniform(1e-6, 5e-5, 100), rng.integers(0, 80, 100))
    assert scene.compare(make(boxes + 30, scene.scores, scene.class_ids)).unexplained > 50


def many(count: int = 20) -> Detections:
    corners = np.stack([np.arange(count) * 60.0, np.zeros(count)], 1)
    return make(np.concatenate([corners, corners + 40], 1), np.linspace(0.9, 0.4, count), np.zeros(count))


def test_another_last_box_of_the_same_score_is_a_tie_at_the_cut():
    scene = many()
    boxes = scene.boxes.copy()
    boxes[-1] = [700, 300, 740, 350]
    error = scene.compare(Detections(boxes, scene.scores, scene.class_ids))
    assert (error.matched, error.ties, error.unexplained) == (19, 2, 0)


def test_a_list_that_is_shorter_has_lost_a_box_and_not_tied():
    scene = many()
    error = scene.compare(select(scene, np.arange(19)))
    assert (error.matched, error.ties, error.unexplained) == (19, 0, 1)


def test_of_two_neighbouring_peaks_of_one_score_either_may_win():
    scene = many()
    boxes, scores = scene.boxes.copy(), scene.scores.copy()
    boxes[3] += [8, 0, 8, 0]
    scores[3] += 1e-5
    error = scene.compare(Detections(boxes, scores, scene.class_ids))
    assert (error.matched, error.ties, error.unexplained) == (19, 2, 0)
    scores[3] += 0.01
    error = scene.compare(Detections(boxes, scores, scene.class_ids))
    assert error.unexplained == 2


@pytest.mark.parametrize(("down", "ties"), [(36, 2), (150, 0)])
def test_where_cells_are_large_neighbours_are_known_by_their_overlap(down, ties):
    """Of 16 cells across an image of 640 pixels, a cell is 6 % of it."""
    corners = np.array([[20.0, 0], [300, 20], [40, 300], [380, 350]])
    boxes = np.concatenate([corners, corners + np.array([250, 290])], 1).repeat(5, 0) + np.arange(20)[:, None]
    scene = make(boxes, np.linspace(0.9, 0.3, 20), np.arange(20))
    boxes = boxes.copy()
    boxes[3] += [0, down, 0, down]
    error = scene.compare(Detections(boxes, scene.scores + np.float32(0.01), scene.class_ids), slack=0.04)
    assert (error.ties, error.unexplained) == (ties, 2 - ties)


def test_the_slack_decides_what_counts_as_the_same_score():
    scene = many()
    boxes, scores = scene.boxes.copy(), scene.scores.copy()
    boxes[3] += [8, 0, 8, 0]
    scores[3] += 5e-3
    wrong = Detections(boxes, scores, scene.class_ids)
    assert scene.compare(wrong).unexplained == 2
    assert scene.compare(wrong, slack=1e-2).ties == 2


def with_noise(rng: np.random.Generator, objects: Any, moved: int) -> Detections:
    """Return objects and 94 boxes of next to no score, ``moved`` of which lie anywhere."""
    fixed = np.random.default_rng(3).uniform(0, 400, (94, 2))
    fixed[:moved] = rng.uniform(0, 400, (moved, 2))
    corners = np.concatenate([np.asarray(objects, float), fixed])
    scores = np.concatenate([np.linspace(0.9, 0.6, 6), np.linspace(0.05, 0.01, 94)])
    return make(np.concatenate([corners, corners + 20], 1), scores, np.zeros(100))


def test_where_scores_are_coarse_boxes_of_no_score_may_be_others_and_objects_may_not():
    objects = np.stack([np.arange(6) * 70.0, np.full(6, 500.0)], 1)
    scene, other = (with_noise(np.random.default_rng(seed), objects, 30) for seed in (4, 5))
    assert scene.compare(other).unexplained > 50
    error = scene.compare(other, slack=0.1)
    assert error.unexplained == 0
    assert error.ties >= 50
    shifted = objects.copy()
    shifted[1:] += 8
    assert scene.compare(with_noise(np.random.default_rng(5), shifted, 30), slack=0.1).unexplained == 10
    anywhere = with_noise(np.random.default_rng(5), objects, 94)
    assert scene.compare(anywhere, slack=0.1).unexplained > 100, "more than half of the boxes are no ties"


def test_coarse_scores_are_no_excuse_for_objects_above_a_threshold():
    """Faults where scores are known to 0.3: other objects close to a threshold, and objects of a low score moved."""
    places = np.arange(4)[:, None] * 100.0
    corners = np.concatenate([places, places], 1)
    scene = make(np.concatenate([corners, corners + 20], 1), [0.9, 0.8, 0.4, 0.35], np.zeros(4))
    swapped = make(scene.boxes + np.array([[0], [0], [40], [40]]), scene.scores, np.zeros(4))
    assert scene.compare(swapped, slack=0.3).unexplained == 4
    objects = np.stack([np.arange(6) * 70.0, np.full(6, 500.0)], 1)
    noisy = with_noise(np.random.default_rng(4), objects, 0)
    weak = Detections(noisy.boxes, np.where(noisy.scores > 0.5, 0.25, noisy.scores).astype(np.float32), noisy.class_ids)
    moved = weak.boxes.copy()
    moved[:6] += 8
    assert weak.compare(Detections(moved, weak.scores, weak.class_ids), slack=0.3).unexplained >= 10


def test_overlapping_boxes_of_one_class_each_find_their_own_partner():
    boxes = [[0, 0, 100, 100], [2, 0, 102, 100], [4, 0, 104, 100]]
    scene = make(boxes, [0.9, 0.8, 0.7], [0, 0, 0])
    error = scene.compare(select(scene, np.array([2, 0, 1])))
    assert (error.matched, error.figures) == (3, {"max_box": 0, "max_score": 0})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_infinitely_wrong(value):
    scene = many()
    scores = scene.scores.copy()
    scores[5] = value
    error = scene.compare(Detections(scene.boxes, scores, scene.class_ids))
    assert error.figures["max_score"] == math.inf or error.unexplained > 0


def test_two_empty_sets_match_and_an_empty_one_matches_nothing_else():
    empty, scene = many(0), many(3)
    both = empty.compare(empty)
    assert (both.expected, both.matched, both.ties, both.unexplained) == (0, 0, 0, 0)
    assert scene.compare(empty).unexplained == 3
    assert empty.compare(scene).unexplained == 3


def test_boxes_turned_inside_out_or_without_area_are_matched_by_their_corners():
    scene = make([[50, 60, 10, 20], [5, 5, 5, 5], [0, 9, 30, 9]], [0.9, 0.8, 0.7], [0, 0, 0])
    assert scene.compare(scene).matched == 3
    upright = make([[10, 20, 50, 60], [5, 5, 5, 5], [0, 9, 30, 9]], [0.9, 0.8, 0.7], [0, 0, 0])
    error = scene.compare(upright)
    assert error.matched == 3
    assert error.figures["max_box"] == 40, "the corners differ, and that is measured"


@given(scenes(most=8), scenes(most=8))
def test_iou_equals_its_definition(first, second):
    table = box_iou(first.boxes, second.boxes)
    assert table.shape == (len(first), len(second))
    for (i, j), value in np.ndenumerate(table):
        a, b = (boxes.astype(float) for boxes in (first.boxes[i], second.boxes[j]))
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        overlap = max(width, 0) * max(height, 0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
        assert value == pytest.approx(overlap / union)


@pytest.mark.parametrize("index", [5, 19])
def test_a_box_that_is_no_number_is_never_a_tie(index):
    scene = many()
    boxes = scene.boxes.copy()
    boxes[index, 2] = np.nan
    assert scene.compare(Detections(boxes, scene.scores, scene.class_ids)).unexplained >= 1


def test_what_may_always_deviate_is_a_hundredth_of_a_pixel_and_the_slack_of_a_score():
    assert many().compare(many()).floors == {"max_box": 0.01, "max_score": SLACK}


def test_a_result_of_another_kind_differs():
    other = Classification(np.array([0.5, 0.5], np.float32))
    for error in (many().compare(other), other.compare(many())):
        assert (error.expected, error.matched, error.unexplained) == (1, 0, 1)
        assert "result" in error.note
