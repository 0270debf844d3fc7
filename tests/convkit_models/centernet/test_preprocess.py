"""The preprocess against the official one, written out with the float64 formula for every pixel."""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convkit import Prepared
from convkit.errors import ImageError
from convkit.processing import synthetic_scenes
from convkit_models.centernet._preprocess import Affine

MEAN = (0.40789654, 0.44719302, 0.47026115)
STD = (0.28863828, 0.27408164, 0.27809835)


def spec(resize: str = "fix_res", height: int | None = 512, width: int | None = 512, **more: Any) -> dict[str, Any]:
    return {"resize": resize, "height": height, "width": width, "pad": 31, "mean": MEAN, "std": STD, **more}


def official(image: np.ndarray, options: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Do what CenterNet's detectors do before the network, step by step."""
    rows, columns = image.shape[:2]
    mean = np.array(options["mean"], np.float32).reshape(1, 1, 3)
    std = np.array(options["std"], np.float32).reshape(1, 1, 3)
    if options["resize"] == "fix_res":
        height, width = options["height"], options["width"]
        c = np.array([columns / 2.0, rows / 2.0], np.float32)
        s = np.array([max(rows, columns) * 1.0] * 2, np.float32)
    else:
        height, width = (rows | 31) + 1, (columns | 31) + 1
        c = np.array([columns // 2, rows // 2], np.float32)
        s = np.array([width, height], np.float32)

    def three_points(first: np.ndarray, side: np.float32) -> np.ndarray:
        points = np.zeros((3, 2), np.float32)
        points[0] = first
        points[1] = first + np.array([0, side * -0.5], np.float32)
        direct = points[0] - points[1]
        points[2] = points[1] + np.array([-direct[1], direct[0]], np.float32)
        return points

    matrix = cv2.getAffineTransform(
        three_points(c, s[0]), three_points(np.array([width * 0.5, height * 0.5], np.float32), np.float32(width))
    )
    warped = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    normalised = ((warped / 255.0 - mean) / std).astype(np.float32)
    meta = {"center": c.tolist(), "scale": float(s[0]), "input": [height, width]}
    return normalised.transpose(2, 0, 1), meta


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@pytest.mark.parametrize("mean_std", [(MEAN, STD), ((0.408, 0.447, 0.47), (0.289, 0.274, 0.278))])
@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"),
    [(1080, 1920, 512, 512), (427, 640, 512, 512), (640, 427, 320, 544), (37, 53, 384, 384), (1, 1, 64, 96)],
)
def test_fix_res_is_bit_for_bit_official(
    rows: int, columns: int, height: int, width: int, mean_std: tuple[Any, Any]
) -> None:
    options = spec(height=height, width=width, mean=mean_std[0], std=mean_std[1])
    compare(Affine(options)(noise(rows, columns)), *official(noise(rows, columns), options))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
def test_keep_res_is_bit_for_bit_official(rows: int, columns: int, seed: int) -> None:
    options = spec("keep_res", None, None)
    image = noise(rows, columns, seed)
    compare(Affine(options)(image), *official(image, options))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 8), st.integers(1, 8))
def test_fix_res_is_official_for_any_size(rows: int, columns: int, height: int, width: int) -> None:
    options = spec(height=32 * height, width=32 * width)
    image = noise(rows, columns)
    compare(Affine(options)(image), *official(image, options))


def test_real_scenes() -> None:
    for image in synthetic_scenes(2, seed=3):
        compare(Affine(spec())(image), *official(image, spec()))


def compare(found: Prepared, tensor: np.ndarray, meta: dict[str, Any]) -> None:
    assert found.tensors["images"].dtype == np.float32
    assert found.tensors["images"].flags.c_contiguous
    np.testing.assert_array_equal(found.tensors["images"], tensor)
    assert json.loads(json.dumps(found.meta)) == meta


@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"),
    [(512, 512, 544, 544), (427, 640, 448, 672), (31, 32, 32, 64), (480, 63, 512, 64)],
)
def test_keep_res_is_centring_in_the_next_larger_multiple(rows: int, columns: int, height: int, width: int) -> None:
    """Without OpenCV: a whole-pixel shift, zeros around, and the formula."""
    image = noise(rows, columns)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2 - rows // 2, width // 2 - columns // 2
    canvas[top : top + rows, left : left + columns] = image
    expected = (canvas / 255.0 - np.float32(MEAN)) / np.float32(STD)
    found = Affine(spec("keep_res", None, None))(image)
    np.testing.assert_array_equal(found.tensors["images"], expected.astype(np.float32).transpose(2, 0, 1))


def test_keep_res_in_a_given_size_is_centred_too() -> None:
    """A proof asks for sizes of its own; the image keeps its scale in them."""
    image = noise(50, 70)
    found = Affine(spec("keep_res", 32, 128))(image)
    assert found.tensors["images"].shape == (3, 32, 128)
    assert found.meta == {"center": [35.0, 25.0], "scale": 128.0, "input": [32, 128]}
    whole = Affine(spec("keep_res", None, None))(image).tensors["images"]
    np.testing.assert_array_equal(found.tensors["images"][:, :, 16:112], whole[:, 16:48])


def test_padding_is_black_before_the_normalisation() -> None:
    tensor = Affine(spec())(np.full((100, 200, 3), 255, np.uint8)).tensors["images"]
    black = (-np.float32(MEAN).astype(np.float64) / np.float32(STD)).astype(np.float32)
    white = ((1 - np.float32(MEAN).astype(np.float64)) / np.float32(STD)).astype(np.float32)
    np.testing.assert_array_equal(tensor[:, 0, 0], black)
    np.testing.assert_array_equal(tensor[:, 511, 511], black)
    np.testing.assert_array_equal(tensor[:, 256, 256], white)


def test_channels_keep_their_order() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 2] = 255
    tensor = Affine(spec(height=64, width=64))(image).tensors["images"]
    assert tensor[2].min() > 1.9
    assert tensor[:2].max() < -1.4


def test_results_do_not_share_memory() -> None:
    prepare = Affine(spec(height=64, width=64))
    first = prepare(noise(64, 64, 1))
    kept = first.tensors["images"].copy()
    prepare(noise(64, 64, 2))
    np.testing.assert_array_equal(first.tensors["images"], kept)


def test_an_image_that_is_a_view() -> None:
    image = noise(80, 120)
    options = spec(height=64, width=64)
    compare(Affine(options)(image[::2, ::-1]), *official(np.ascontiguousarray(image[::2, ::-1]), options))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 0, 3), np.uint8),
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 1), np.uint8),
        np.zeros((5, 5, 3), np.uint16),
        np.zeros((5, 5, 3), np.float32),
        None,
    ],
    ids=lambda image: str(getattr(image, "shape", None)),
)
def test_what_is_no_bgr_image_is_refused(image: Any) -> None:
    with pytest.raises(ImageError, match="cannot be prepared"):
        Affine(spec())(image)


def test_what_opencv_cannot_warp_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise cv2.error("(-215:Assertion failed) src.cols < SHRT_MAX")

    monkeypatch.setattr(cv2, "warpAffine", refuse)
    with pytest.raises(ImageError, match="image of 53 x 37 pixels"):
        Affine(spec())(noise(37, 53))
