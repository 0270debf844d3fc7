"""Images that come with the matrix of their camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from convkit.errors import InputError
from convkit_models.centernet import convkit_preprocess

NUMBERS = [700.0, 0, 600, 40, 0, 700, 180, 1, 0, 0, 1, 0.005]
TEXT = " ".join(f"{number:.6e}" for number in NUMBERS)
SPEC = {
    "kind": "centernet.affine",
    "resize": "fix_res",
    "height": 96,
    "width": 320,
    "pad": 31,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "side": "width",
    "dtype": "float32",
}


@pytest.fixture
def prepare() -> Any:
    return convkit_preprocess(SPEC)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 200, 3), np.uint8)


@pytest.mark.parametrize("text", [f"P0: 1 2\nP1: 3\nP2: {TEXT}\nR0_rect: 1 0\n", TEXT, TEXT.replace(" ", ",\n")])
def test_a_file_of_kitti_or_of_numbers(prepare: Any, image: np.ndarray, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.txt").write_text(text)
    reader = prepare.reader
    assert reader.companions == ("calib",)
    joined = reader.join(image, {"calib": tmp_path / "c.txt"})
    np.testing.assert_array_equal(joined, image)
    plain, calibrated = prepare(image), prepare(reader.accept(joined))
    assert calibrated.meta == {**plain.meta, "calibration": pytest.approx(NUMBERS)}
    np.testing.assert_array_equal(calibrated.tensors["images"], plain.tensors["images"])
    device = prepare.on_device()
    assert device.place(joined).meta == calibrated.meta
    assert device.place(image).meta == plain.meta


def test_a_mapping_with_both(prepare: Any, image: np.ndarray, tmp_path: Path) -> None:
    """As Python gives it, and as lists that the original makes have it, in rows."""
    cv2.imwrite(str(tmp_path / "a.png"), image)
    joined = prepare.reader.accept({"image": tmp_path / "a.png", "calib": np.reshape(NUMBERS, (3, 4)).tolist()})
    np.testing.assert_array_equal(joined, image)
    assert joined.calibration == tuple(NUMBERS)
    assert cv2.rectangle(joined.copy(), (0, 0), (9, 9), 0).shape == image.shape


@pytest.mark.parametrize(
    ("calib", "said"),
    [
        (NUMBERS[:11], "has 11 numbers"),
        ([0, *NUMBERS[1:]], "a focal length of 0"),
        ([float("nan"), *NUMBERS[1:]], "NaN"),
        ("P0: 1\n", "has no line P2"),
        ("P2: one two", "is no matrix of numbers"),
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        ([[1, 2], [3]], "is no matrix"),
    ],
)
def test_what_is_no_matrix(prepare: Any, image: np.ndarray, tmp_path: Path, calib: Any, said: str) -> None:
    value = calib if isinstance(calib, list) else tmp_path / "c.txt"
    if isinstance(calib, str | bytes):
        value.write_bytes(calib.encode() if isinstance(calib, str) else calib)
    with pytest.raises(InputError, match=said):
        prepare.reader.accept({"image": image, "calib": value})


def test_a_mapping_with_something_else(prepare: Any, image: np.ndarray) -> None:
    with pytest.raises(InputError, match="An input has 'image', 'depth'"):
        prepare.reader.accept({"image": image, "depth": image})
