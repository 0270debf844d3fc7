"""Poses compared by matching; JSON, COCO entries and drawing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convkit.results import COCO_EDGES, COCO_JOINTS, SLACK, Detections, Poses

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def people() -> Poses:
    rng = np.random.default_rng(0)
    corners = np.array([[10, 10], [110, 30], [210, 20], [300, 200]], np.float32)
    boxes = np.concatenate([corners, corners + np.float32([60, 90])], axis=1)
    points = (corners[:, None] + rng.uniform(0, 60, (4, 17, 2))).astype(np.float32)
    return Poses(boxes, np.float32([0.9, 0.8, 0.6, 0.4]), points)


def test_a_pose_without_a_partner_stands_out(people: Poses) -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    np.testing.assert_array_equal(people.draw_beside(image, people), people.draw(image))
    drawn = people.draw_beside(image, people.above(0.7))
    x, y = people.boxes[3, 0].astype(int), people.boxes[3, 1].astype(int) + 60
    np.testing.assert_array_equal(drawn[y, x - 1 : x + 2], [[255, 0, 255]] * 3)
    assert not (drawn[:120, :180] == (255, 0, 255)).all(-1).any(), "the first two have partners"


def test_equal_poses_in_any_order(people: Poses) -> None:
    order = [2, 0, 3, 1]
    shuffled = Poses(people.boxes[order], people.scores[order], people.points[order])
    found = people.compare(shuffled)
    assert (found.expected, found.matched, found.ties, found.unexplained) == (4, 4, 0, 0)
    assert set(found.figures.values()) == {0.0}


@pytest.mark.parametrize("name", ["boxes", "points", "scores"])
def test_every_part_is_measured(people: Poses, name: str) -> None:
    values = getattr(people, name).copy()
    values.reshape(4, -1)[1, -1] += 0.25
    found = people.compare(replace(people, **{name: values}))
    figure = {"boxes": "max_box", "points": "max_point", "scores": "max_score"}[name]
    assert found.figures[figure] == pytest.approx(0.25, abs=1e-5)
    assert found.figures[figure] > found.floors[figure]
    assert sum(found.figures.values()) == pytest.approx(0.25, abs=1e-5)


def test_one_joint_that_jumps_within_its_box_is_a_tie(people: Poses) -> None:
    points = people.points.copy()
    points[1, 3] += 20
    found = people.compare(replace(people, points=points))
    assert (found.matched, found.ties, found.unexplained) == (3, 1, 0)
    assert found.figures["max_point"] == 0


@pytest.mark.parametrize("far", [91.0, np.nan, np.inf])
def test_a_joint_that_leaves_its_box_is_a_fault(people: Poses, far: float) -> None:
    points = people.points.copy()
    points[1, 3] += np.float32(far)
    found = people.compare(replace(people, points=points))
    assert (found.matched, found.ties, found.unexplained) == (3, 0, 1)


def test_many_joints_that_jump_are_a_fault(people: Poses) -> None:
    swapped = people.points.copy()
    swapped[:, [1, 2]] = swapped[:, [2, 1]]
    found = people.compare(replace(people, points=swapped))
    assert found.unexplained == 4


def test_missing_people_and_other_results(people: Poses) -> None:
    fewer = people.above(0.5)
    assert people.compare(fewer).unexplained == fewer.compare(people).unexplained == 1
    nobody = people.above(1)
    assert nobody.compare(nobody).unexplained == 0
    assert nobody.compare(people).unexplained == 4
    assert people.compare(replace(people, points=people.points[:, :5])).note == "17 and 5 key points"
    other = Detections(people.boxes, people.scores, np.zeros(4, np.int64))
    assert people.compare(other, slack=SLACK).unexplained


def test_json_and_coco(people: Poses) -> None:
    one = people.above(0.9).to_json()["poses"][0]
    assert list(one["points"]) == list(COCO_JOINTS)
    assert one["points"]["nose"] == people.points[0, 0].tolist()
    assert one["box"] == people.boxes[0].tolist()
    entry = people.to_coco(7)[1]
    assert (entry["image_id"], entry["category_id"], len(entry["keypoints"])) == (7, 1, 51)
    assert entry["bbox"] == [110, 30, 60, 90]
    assert entry["keypoints"][3:6] == [*people.points[1, 1].tolist(), 1]
    assert people.summary() == "4 poses, the best with 0.90"
    assert people.above(1).summary() == "0 poses"


def test_drawing(people: Poses) -> None:
    image = np.zeros((320, 400, 3), np.uint8)
    drawn = people.draw(image)
    assert not image.any()
    for x, y in people.points[3].astype(int):
        assert drawn[y, x].any()
    first, second = people.points[3][list(COCO_EDGES[9])]
    x, y = ((first + second) / 2).astype(int)
    assert drawn[y, x].any()
    wild = replace(people, points=np.full_like(people.points, np.nan), boxes=people.boxes * np.float32(1e30))
    assert wild.draw(image).shape == image.shape
