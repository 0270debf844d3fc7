from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convkit_models.centernet._geometry import affine, transform

sides = st.integers(1, 5000)
outputs = st.tuples(st.integers(1, 64), st.integers(1, 64)).map(lambda size: (32 * size[0], 32 * size[1]))


@given(sides, sides, outputs)
def test_the_matrix_is_a_scale_about_the_middle(columns: int, rows: int, size: tuple[int, int]) -> None:
    """r = W / scale, and the centre goes to the middle of the output: no rotation, no half-pixel shift."""
    centre, scale = (columns / 2, rows / 2), float(max(columns, rows))
    ratio = size[0] / scale
    expected = [[ratio, 0, size[0] / 2 - ratio * centre[0]], [0, ratio, size[1] / 2 - ratio * centre[1]]]
    found = affine(centre, scale, size)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * max(1, ratio) * max(size))


@given(sides, sides, outputs)
def test_the_inverse_maps_back(columns: int, rows: int, size: tuple[int, int]) -> None:
    centre, scale = (columns / 2, rows / 2), float(max(columns, rows))
    corners = np.array([[0, 0], [columns, rows], [columns, 0]], np.float32)
    there = transform(corners, affine(centre, scale, size))
    back = transform(there, affine(centre, scale, size, inverse=True))
    np.testing.assert_allclose(back, corners, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("columns", "rows", "size", "corner"),
    [
        (1920, 1080, (512, 512), (0.0, 112.0)),
        (810, 1080, (512, 512), (64.0, 0.0)),
        (512, 512, (512, 512), (0.0, 0.0)),
        (640, 480, (384, 288), (0.0, 0.0)),
        (480, 640, (640, 320), (80.0, -160.0)),
    ],
)
def test_where_the_corner_of_the_image_lands(
    columns: int, rows: int, size: tuple[int, int], corner: tuple[float, float]
) -> None:
    matrix = affine((columns / 2, rows / 2), float(max(columns, rows)), size)
    np.testing.assert_allclose(transform(np.zeros(2, np.float32), matrix), corner, atol=1e-4)


def test_transform_keeps_the_shape_of_its_points() -> None:
    matrix = np.array([[2.0, 0.5, 1.0], [0.0, 3.0, -1.0]])
    points = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    found = transform(points, matrix)
    expected = points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
