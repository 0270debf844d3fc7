"""Boxes in space: corners by hand, comparison by matching, JSON, KITTI lines and drawing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from convkit.results import Boxes3D

pytestmark = pytest.mark.filterwarnings("error")

CAMERA = np.float32([[700, 0, 300, 45], [0, 700, 100, -0.3], [0, 0, 1, 0.005]])


@pytest.fixture
def cars() -> Boxes3D:
    return Boxes3D(
        boxes=np.float32([[10, 10, 60, 50], [200, 40, 260, 90], [300, 20, 340, 60]]),
        scores=np.float32([0.9, 0.7, 0.3]),
        class_ids=np.int64([1, 1, 2]),
        sizes=np.float32([[1.5, 1.6, 4.0], [1.4, 1.7, 3.9], [1.7, 0.6, 1.8]]),
        places=np.float32([[-3, 1.6, 12], [0, 1.7, 20], [4, 1.5, 30]]),
        headings=np.float32([0.1, -3.14, 1.5]),
        alphas=np.float32([0.3, 3.14, 1.4]),
        calibration=CAMERA,
        classes=("Pedestrian", "Car", "Cyclist"),
    )


def test_corners_of_a_box_that_looks_ahead(cars: Boxes3D) -> None:
    """With heading 0 the length lies along x, the width along z, and y points down."""
    one = replace(cars.above(0.8), headings=np.float32([0]), places=np.float32([[1, 2, 10]]))
    expected = [
        *[[3, 2, 10.8], [3, 2, 9.2], [-1, 2, 9.2], [-1, 2, 10.8]],
        *[[3, 0.5, 10.8], [3, 0.5, 9.2], [-1, 0.5, 9.2], [-1, 0.5, 10.8]],
    ]
    np.testing.assert_allclose(one.corners()[0], expected, atol=1e-6)
    turned = replace(one, headings=np.float32([math.pi / 2])).corners()[0]  # the length now along -z
    np.testing.assert_allclose(turned[0], [1 + 0.8, 2, 10 - 2], atol=1e-6)


def test_angles_are_compared_around_the_circle(cars: Boxes3D) -> None:
    turned = replace(cars, headings=cars.headings + np.float32(2 * math.pi - 0.01))
    found = cars.compare(turned)
    assert (found.matched, found.unexplained) == (3, 0)
    assert found.figures["max_angle"] == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "figure", "expected"), [("sizes", "max_size", 0.5), ("places", "max_place", 0.5 / 12.5)]
)
def test_space_is_measured(cars: Boxes3D, name: str, figure: str, expected: float) -> None:
    values = getattr(cars, name).copy()
    values[0, 2] += 0.5
    found = cars.compare(replace(cars, **{name: values}))
    assert found.figures[figure] == pytest.approx(expected, rel=0.05)
    assert found.figures[figure] > found.floors[figure]


def test_missing_boxes(cars: Boxes3D) -> None:
    assert cars.compare(cars.above(0.5)).unexplained == 1
    assert cars.above(1).compare(cars.above(1)).unexplained == 0


def test_json_and_kitti(cars: Boxes3D) -> None:
    first = cars.to_json()["boxes"][0]
    assert (first["class_name"], first["size"]["length"]) == ("Car", 4.0)
    assert first["place"] == [-3.0, pytest.approx(1.6), 12.0]
    fields = cars.to_kitti().splitlines()[2].split()
    assert fields[:3] == ["Cyclist", "-1", "-1"]
    expected = [1.4, 300, 20, 340, 60, 1.7, 0.6, 1.8, 4, 1.5, 30, 1.5, 0.3]
    np.testing.assert_allclose([float(field) for field in fields[3:]], expected, atol=1e-4)
    assert cars.summary() == "3 boxes in space: 2 Car, 1 Cyclist"


def test_drawing(cars: Boxes3D) -> None:
    image = np.zeros((200, 640, 3), np.uint8)
    drawn = cars.draw(image)
    assert not image.any()
    for corner in cars.corners()[1]:
        x, y, depth = CAMERA.astype(float) @ [*corner, 1]
        column, row = int(x / depth), int(y / depth)
        assert drawn[row - 1 : row + 2, column - 1 : column + 2].any()
    behind = replace(cars, places=cars.places * np.float32([1, 1, -1]))
    assert behind.draw(image)[40, 230].any()  # the box in the image instead
