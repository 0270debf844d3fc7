"""Drawings: every box is where it belongs, in the colour of its class, and nothing can break them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from convkit.results import Classification, Detections, class_colour, draw_caption, draw_detections


def make(boxes: list[list[float]], class_id: int = 0) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count).astype(np.float32),
        np.full(count, class_id, np.int64),
        ("thing",),
    )


def test_the_frame_of_a_box_has_the_colour_of_its_class_and_its_inside_is_untouched():
    image = np.zeros((240, 320, 3), np.uint8)
    drawn = draw_detections(image, make([[100, 80, 220, 200]], class_id=7))
    edges = drawn[[200, 140, 140], [160, 100, 220]]  # lower, left, right; the label lies on the upper one
    np.testing.assert_allclose(edges, [class_colour(7)] * 3, atol=25)  # lines are smoothed
    assert not drawn[120:180, 120:200].any()
    assert not drawn[215:].any()


def test_an_image_without_detections_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    np.testing.assert_array_equal(draw_detections(image, make([])), image)


def test_what_has_no_partner_in_another_result_stands_out():
    image = np.zeros((240, 320, 3), np.uint8)
    first = make([[20, 80, 120, 200], [180, 80, 280, 200]], class_id=7)
    np.testing.assert_array_equal(first.draw_beside(image, first), first.draw(image))
    moved = make([[20.2, 80, 120, 200], [180, 20, 280, 70]], class_id=7)
    drawn = first.draw_beside(image, moved)
    np.testing.assert_allclose(drawn[140, [20, 120]], [class_colour(7)] * 2, atol=25)
    np.testing.assert_array_equal(drawn[140, [179, 180, 181, 279, 280, 281]], [[255, 0, 255]] * 6)
    plain = (first.draw(image)[64:76] == class_colour(7)).all(-1).any(0)[150:].sum()
    marked = (drawn[64:76] == (255, 0, 255)).all(-1).any(0)[150:].sum()
    assert marked > 1.5 * plain, "the label is longer by two words"
    np.testing.assert_array_equal(first.draw_beside(image, Classification(np.ones(1), ["a"])), first.draw(image))


@pytest.mark.parametrize(
    "box",
    [
        [-500, -500, 9000, 9000],
        [30, 30, 30, 30],
        [50, 40, 10, 5],
        [1e9, 1e9, 2e9, 2e9],
        [-3, -3, 2, 2],
        [59, 49, 99, 99],
    ],
)
@pytest.mark.parametrize("size", [(50, 60), (1, 1), (2000, 9)])
def test_boxes_outside_inside_out_or_degenerate_are_drawn_without_error(box, size):
    image = np.zeros((*size, 3), np.uint8)
    assert draw_detections(image, make([box])).shape == image.shape


def test_labels_stay_inside_the_image():
    image = np.zeros((120, 160, 3), np.uint8)
    drawn = draw_detections(image, make([[100, 2, 159, 60]]))
    colour = np.array(class_colour(0))
    filled = (np.abs(drawn.astype(int) - colour).max(-1) <= 2).sum(1)
    assert filled[:14].max() > 50  # the label's ground, a solid row of pixels, though the box touches the upper edge


def test_neighbouring_classes_have_clearly_different_colours():
    colours = [np.array(class_colour(index), int) for index in range(12)]
    assert min(np.abs(a - b).sum() for a, b in itertools.pairwise(colours)) > 150


def test_a_caption_is_written_in_the_upper_left_corner():
    image = np.full((200, 300, 3), 200, np.uint8)
    drawn = draw_caption(image, "seven (0.98)")
    changed = (drawn != image).any(-1)
    assert changed[:12, :60].all()  # a ground that the text can be read on
    assert not changed[20:].any()
    assert not changed[:, 90:].any()
