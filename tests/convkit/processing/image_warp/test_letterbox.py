"""The warp kernel as a letterbox, on the host: against OpenCV's resize and border at scales up and down, odd sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.warping import GREY, RAMP, by_opencv, noise, on_host, pack, placed, to_image

from convkit.processing.image_warp import ImageWarp, warp

IMAGES = [(37, 53), (120, 64), (1, 1), (2, 70), (70, 2), (33, 20), (9, 310), (311, 9), (128, 192), (241, 317)]
"""Heights and widths; between them and the sizes below there are scales from 0.11 to 320."""
SIZES = [(64, 96), (97, 61), (320, 320)]


def letterboxes(settings: ImageWarp, images: list[np.ndarray], height: int, width: int) -> tuple[Any, Any]:
    sizes = [image.shape[:2] for image in images]
    rectangles = [placed(*size, height, width) for size in sizes]
    matrices = [to_image(*size, each) for size, each in zip(sizes, rectangles, strict=True)]
    return pack(images, matrices, 3, settings, rectangles)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rounding", ["even", "up"])
def test_a_letterbox_is_opencvs_resize_and_border_to_one_level(size: tuple[int, int], rounding: Any) -> None:
    """Noise is the hardest case: neighbours differ by up to 255 levels, so a wrong neighbour or weight stands out.

    The weights of cv2.resize have 11 bits, which is worth up to a level.
    """
    images = [noise(*shape, seed=index) for index, shape in enumerate(IMAGES)]
    settings = ImageWarp(RAMP, border=GREY, edge="replicate", rounding=rounding)
    table, pixels = letterboxes(settings, images, *size)
    found = on_host(settings, settings.variant("float32"), table, pixels, size)
    np.testing.assert_array_equal(found, warp(settings, table, pixels, *size))
    for image, levels in zip(images, found, strict=True):
        difference = np.abs(levels.transpose(1, 2, 0) - by_opencv(image, *size))
        assert difference.max() <= 1, f"{image.shape[:2]} into {size}"
        assert (difference > 0).mean() < 0.13
        left, top, right, bottom = placed(*image.shape[:2], *size)
        difference[top:bottom, left:right] = 0
        assert not difference.any(), "the border has its own level"


@pytest.mark.parametrize("shape", [(1080, 1920), (2160, 3840), (427, 640), (480, 640), (375, 500)])
def test_photographs_into_640(shape: tuple[int, int]) -> None:
    """The reference in NumPy, which is equal to the kernel, at the sizes of cameras."""
    image = noise(*shape)
    settings = ImageWarp(RAMP, border=GREY, edge="replicate", rounding="up")
    found = warp(settings, *letterboxes(settings, [image], 640, 640), 640, 640)[0].transpose(1, 2, 0)
    assert np.abs(found - by_opencv(image, 640, 640)).max() <= 1


def test_without_the_replicated_edge_an_enlarged_image_fades_into_the_border() -> None:
    """The reason for the mode: with a constant border, OpenCV's levels are missed by tens along the edge."""
    image = noise(20, 30)
    rectangle = placed(20, 30, 64, 96)
    constant = ImageWarp(RAMP, border=GREY)
    table, pixels = pack([image], [to_image(20, 30, rectangle)], 0, constant)
    found = on_host(constant, constant.variant("float32"), table, pixels, (64, 96))[0].transpose(1, 2, 0)
    assert np.abs(found - by_opencv(image, 64, 96)).max() > 40
