"""The scenes of the digits demo: reproducible, tightly annotated, and held-out scenes share nothing with training."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import generate
import numpy as np
import pytest
import sources
from generate import Scene
from hypothesis import given, settings
from hypothesis import strategies as st

COCO = pytest.importorskip("pycocotools.coco").COCO
COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"

SHIPPED = {"split": "heldout", "count": 200, "seed": 7}


@pytest.fixture(scope="module")
def glyphs() -> sources.Glyphs:
    return sources.load_glyphs("train")


@pytest.fixture(scope="module")
def photos() -> tuple[np.ndarray, ...]:
    return sources.load_photos("train")


def make(glyphs, photos, seed: int, size=(256, 256)) -> Scene:
    return generate.scene(np.random.default_rng(seed), glyphs, photos, size)


def test_the_same_seed_gives_the_same_scene_and_another_seed_another(glyphs, photos):
    one, again, other = make(glyphs, photos, 3), make(glyphs, photos, 3), make(glyphs, photos, 4)
    for field, same in zip(one, again, strict=True):
        np.testing.assert_array_equal(field, same)
    assert np.mean(one.image != other.image) > 0.5
    assert one.boxes.shape != other.boxes.shape or not np.array_equal(one.boxes, other.boxes)


def test_a_scene_does_not_depend_on_which_process_draws_it():
    whole = list(generate.scenes("train", 5, seed=2, sizes=((64, 64), (64, 96))))
    part = list(generate.scenes("train", 2, seed=2, sizes=((64, 64), (64, 96)), first=3))
    for one, same in zip(whole[3:], part, strict=True):
        np.testing.assert_array_equal(one.image, same.image)
        np.testing.assert_array_equal(one.boxes, same.boxes)


def test_annotations_do_not_depend_on_the_photographs(glyphs, photos):
    grey = [np.full((300, 300, 3), 90, np.uint8)]
    one, other = make(glyphs, photos, 5), make(glyphs, grey, 5)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.owner, other.owner)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_are_tight_around_the_visible_ink(glyphs, photos, seed):
    found = make(glyphs, photos, seed)
    assert len(found.boxes) == len(found.labels) == found.owner.max() + 1
    for number, (x1, y1, x2, y2) in enumerate(found.boxes):
        ys, xs = np.nonzero(found.owner == number)
        assert (x1, y1, x2, y2) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_enclose_what_the_pixels_show(glyphs, seed):
    """Over an even background a digit is whatever differs from it, so the image alone tells where the boxes belong."""
    even = [np.full((300, 300, 3), 90, np.uint8)]
    found = make(glyphs, even, seed)
    background = np.median(found.image.reshape(-1, 3), axis=0)
    blurred = cv2.blur(found.image, (3, 3)).astype(float)  # the noise has a standard deviation of at most 5
    shown = np.abs(blurred - background).max(axis=2) > 25
    allowed = np.zeros(shown.shape, bool)
    for x1, y1, x2, y2 in found.boxes.astype(int):
        allowed[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = True
        inside = shown[y1:y2, x1:x2]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        gaps = (rows[0], columns[0], y2 - y1 - 1 - rows[-1], x2 - x1 - 1 - columns[-1])
        assert max(gaps) <= 3
    assert not (shown & ~allowed).any()


@given(
    height=st.integers(48, 300),
    width=st.integers(48, 300),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_a_scene_of_any_size_holds_whole_digits(height, width, seed):
    found = make(sources.load_glyphs("train"), sources.load_photos("train"), seed, (height, width))
    assert found.image.shape == (height, width, 3)
    assert found.image.dtype == np.uint8
    assert generate.FEWEST_DIGITS <= len(found.labels) <= generate.MOST_DIGITS
    assert set(found.labels.tolist()) <= set(range(10))
    x1, y1, x2, y2 = found.boxes.T
    assert x1.min() >= 0
    assert y1.min() >= 0
    assert x2.max() <= width
    assert y2.max() <= height
    assert (x2 > x1).all()
    assert (y2 > y1).all()


def test_digits_overlap_little(glyphs, photos):
    for seed in range(10):
        found = make(glyphs, photos, seed)
        for one in range(len(found.boxes)):
            for two in range(one):
                (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = found.boxes[one], found.boxes[two]
                shared = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
                areas = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)
                assert shared / (areas - shared) < 0.25


def test_sizes_vary_over_the_range(glyphs, photos):
    heights = np.concatenate([np.diff(make(glyphs, photos, seed).boxes[:, 1::2]) for seed in range(30)])
    assert np.quantile(heights, 0.1) < 35
    assert np.quantile(heights, 0.9) > 60
    assert heights.min() >= 14


def test_the_splits_share_no_digit():
    train, heldout = sources.load_glyphs("train"), sources.load_glyphs("heldout")
    assert not set(train.samples) & set(heldout.samples)
    assert sorted([*train.samples, *heldout.samples]) == list(range(1797))
    for digit in range(10):
        held, kept = np.sum(heldout.labels == digit), np.sum(train.labels == digit)
        assert held / (held + kept) == pytest.approx(0.2, abs=0.01)


def test_no_heldout_scan_is_a_copy_of_a_training_scan():
    train, heldout = sources.load_glyphs("train"), sources.load_glyphs("heldout")
    seen = {glyph.tobytes() for glyph in train.ink}
    assert not [number for number, glyph in zip(heldout.samples, heldout.ink, strict=True) if glyph.tobytes() in seen]


def test_the_splits_share_no_pixel_of_a_photograph():
    for name, left, right in zip(
        ("china.jpg", "flower.jpg"), sources.load_photos("heldout"), sources.load_photos("train"), strict=True
    ):
        whole = cv2.imread(str(files("sklearn.datasets.images") / name))
        np.testing.assert_array_equal(np.hstack([left, right]), whole)


def keys_kernel(distance: float) -> float:
    """Cubic convolution with a = -1/2, as Keys (1981) defines it."""
    t = abs(distance)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def test_glyphs_are_the_scans_enlarged_by_cubic_convolution(glyphs):
    from sklearn.datasets import load_digits

    scans = load_digits().images / 16
    rng = np.random.default_rng(0)
    for _ in range(200):
        which, row, column = rng.integers(len(glyphs)), *rng.integers(glyphs.ink.shape[1], size=2)
        y, x = ((place + 0.5) / sources.OVERSAMPLE - 0.5 - sources.MARGIN for place in (row, column))
        scan = scans[glyphs.samples[which]]
        expected = sum(scan[i, j] * keys_kernel(y - i) * keys_kernel(x - j) for i in range(8) for j in range(8))
        assert glyphs.ink[which, row, column] == pytest.approx(np.clip(expected, 0, 1), abs=1e-6)


def write(folder: Path, count: int) -> Path:
    generate.write_dataset(
        folder / "images",
        folder / "annotations.json",
        split="heldout",
        count=count,
        seed=1,
        sizes=((96, 128), (80, 80)),
    )
    return folder / "annotations.json"


def quietly_load(path: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def average_precision(truth: Any, detections: list[dict]) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_a_written_dataset_is_coco_and_its_own_boxes_score_one(tmp_path):
    truth = quietly_load(write(tmp_path, 4))
    assert [(image["width"], image["height"]) for image in truth.dataset["images"]] == [(128, 96), (80, 80)] * 2
    assert [category["name"] for category in truth.dataset["categories"]] == list(sources.NAMES)
    for image in truth.dataset["images"]:
        stored = cv2.imread(str(tmp_path / "images" / image["file_name"]))
        assert stored.shape == (image["height"], image["width"], 3)
    perfect = [
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}
        for item in truth.dataset["annotations"]
    ]
    assert average_precision(truth, perfect)[0] == pytest.approx(1.0)
    shifted = [item | {"category_id": item["category_id"] % 10 + 1} for item in perfect]
    assert average_precision(truth, shifted)[0] < 0.2


def test_the_command_writes_what_the_function_writes(tmp_path, monkeypatch):
    expected = json.loads(write(tmp_path / "function", 2).read_text())
    images, annotations = tmp_path / "command" / "images", tmp_path / "command" / "annotations.json"
    command = f"generate.py --images {images} --annotations {annotations} --count 2 --seed 1 --size 128x96 --size 80x80"
    monkeypatch.setattr(sys, "argv", command.split())
    generate.main()
    assert json.loads(annotations.read_text()) == expected
    for name in ("0000.jpg", "0001.jpg"):
        assert (images / name).read_bytes() == (tmp_path / "function" / "images" / name).read_bytes()


@pytest.fixture(scope="module")
def shipped() -> list[tuple[str, Scene]]:
    drawn = generate.scenes(SHIPPED["split"], SHIPPED["count"], SHIPPED["seed"])
    return [(f"{number:04d}.jpg", item) for number, item in enumerate(drawn)]


def test_the_shipped_annotations_come_from_their_seed(shipped):
    stored = json.loads((DIGITS / "heldout" / "annotations.json").read_text())
    assert stored == json.loads(json.dumps(generate.coco_dataset(shipped)))


def test_the_shipped_images_come_from_their_seed(shipped):
    """JPEG is lossy, so the stored image is compared with the scene within what quality 90 loses."""
    for name, item in shipped:
        stored = cv2.imread(str(DIGITS / "heldout" / "images" / name))
        assert np.abs(stored.astype(int) - item.image).mean() < 6.0


def test_the_shipped_set_is_valid_coco():
    truth = quietly_load(DIGITS / "heldout" / "annotations.json")
    assert len(truth.imgs) == SHIPPED["count"]
    assert {item["category_id"] for item in truth.dataset["annotations"]} == set(range(1, 11))
    for item in truth.dataset["annotations"]:
        x, y, width, height = item["bbox"]
        assert min(x, y) >= 0
        assert min(width, height) > 0
        assert max(x + width, y + height) <= 256
        assert 0 < item["area"] <= width * height


def test_the_shipped_names_are_the_categories():
    names = (DIGITS / "names.txt").read_text().split()
    categories = json.loads((DIGITS / "heldout" / "annotations.json").read_text())["categories"]
    assert names == [category["name"] for category in sorted(categories, key=lambda category: category["id"])]


def test_the_example_images_come_from_their_seed():
    sizes = ((256, 256), (320, 480), (480, 320), (427, 640), (384, 384), (200, 300))
    stored = [cv2.imread(str(path)) for path in sorted((DIGITS / "images").iterdir())]
    assert len(stored) == len(sizes)
    for image, item in zip(stored, generate.scenes("heldout", len(sizes), 11, sizes), strict=True):
        assert np.abs(image.astype(int) - item.image).mean() < 6.0


def test_the_example_images_have_assorted_sizes():
    sizes = {cv2.imread(str(path)).shape[:2] for path in sorted((DIGITS / "images").iterdir())}
    assert len(sizes) >= 4
    assert any(height != width and min(height, width) > 256 for height, width in sizes)


def test_what_is_shipped_stays_small():
    assert sum(path.stat().st_size for path in (DIGITS / "heldout").rglob("*")) < 5e6
    assert (DIGITS / "digits_resdcn18.pth").stat().st_size <= 6e6
