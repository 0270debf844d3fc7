"""Scenes of handwritten digits over photographs, and a command that writes them as a COCO dataset.

    cd examples/digits
    python generate.py --count 200 --seed 7 --images heldout/images --annotations heldout/annotations.json

A scene is a pure function of its generator: the same seed gives the same pixels. Where the digits stand and what they
are is drawn from one random stream and rendered in NumPy alone; colours and backgrounds come from a second stream,
so the annotations depend neither on the photographs nor on the OpenCV release.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from sources import CELLS, MARGIN, NAMES, OVERSAMPLE, Glyphs, Split, load_glyphs, load_photos

__all__ = [
    "FEWEST_DIGITS",
    "MOST_DIGITS",
    "SQUARE",
    "Scene",
    "Size",
    "coco_dataset",
    "scene",
    "scenes",
    "write_dataset",
]

Size = tuple[int, int]
"""Height and width in pixels."""

SQUARE: Size = (256, 256)
_LUMA = np.array([0.114, 0.587, 0.299], np.float32)  # of B, G, R (ITU-R BT.601)
FEWEST_DIGITS, MOST_DIGITS = 2, 9  # of a scene
_SIZES = (24.0, 96.0)  # of the 8 cells of a digit, in pixels where the scene has 256
_HIDDEN = 0.1  # the share of a digit's ink that others may cover
_CROWDED = 0.2  # the IoU that the boxes of two digits may have
_CONTRAST = 80.0  # between the luma of a digit and of the background below it, where it can be had


class Scene(NamedTuple):
    """One image and what stands in it.

    ``image`` is uint8 ``[H, W, 3]`` in BGR. ``boxes`` is float32 ``[N, 4]``: x1, y1, x2, y2 in pixel edges, tight
    around the pixels that are at least half covered by the digit's ink and not hidden by a later digit. ``labels``
    is int64 ``[N]``. ``owner`` is int16 ``[H, W]``: which digit's ink a pixel shows, -1 for the background.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    owner: NDArray[np.int16]


class _Stamp(NamedTuple):
    """A drawn digit, cropped to its ink: what is ink, how strong (float32 ``[h, w]``), and its corner in the scene."""

    ink: NDArray[np.bool_]
    strength: NDArray[np.float32]
    y: int = 0
    x: int = 0

    @property
    def window(self) -> tuple[slice, slice]:
        height, width = self.ink.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def scene(rng: np.random.Generator, digits: Glyphs, photos: Sequence[NDArray[np.uint8]], size: Size = SQUARE) -> Scene:
    """Draw one scene of ``size`` (height, width): digits, all of them wholly inside, over part of a photograph."""
    geometry, paint = rng.spawn(2)
    stamps, labels, owner = _place(geometry, digits, size)
    image = _background(paint, photos, size)
    for stamp in stamps:
        _paint(paint, image, stamp)
    image += paint.uniform(0.0, 5.0) * paint.standard_normal((*size, 1), np.float32)
    image = np.clip(np.rint(image, out=image), 0.0, 255.0, out=image)
    boxes = np.array([_box(owner == number) for number in range(len(stamps))], np.float32)
    return Scene(image.astype(np.uint8), boxes, np.array(labels, np.int64), owner)


def scenes(split: Split, count: int, seed: int, sizes: Sequence[Size] = (SQUARE,), first: int = 0) -> Iterator[Scene]:
    """Yield scenes ``first`` to ``first + count - 1`` of one split, their sizes taken from ``sizes`` in turn.

    What scene ``i`` looks like depends on ``seed`` and ``i`` alone, so that processes can share the work.
    """
    digits, photos = load_glyphs(split), load_photos(split)
    for index in range(first, first + count):
        yield scene(np.random.default_rng([seed, index]), digits, photos, sizes[index % len(sizes)])


def _place(rng: np.random.Generator, digits: Glyphs, size: Size) -> tuple[list[_Stamp], list[int], NDArray[np.int16]]:
    """Choose digits and places for them; one that would hide or crowd another too much is drawn again elsewhere."""
    owner = np.full(size, -1, np.int16)
    stamps: list[_Stamp] = []
    labels: list[int] = []
    hidden = np.zeros(MOST_DIGITS, np.int64)  # of each digit's ink, in pixels
    limits = np.zeros(MOST_DIGITS)
    scale = min(max(size) / max(SQUARE), min(size) / _SIZES[1])
    wanted = int(rng.integers(FEWEST_DIGITS, MOST_DIGITS + 1))
    while len(stamps) < wanted:
        which = int(rng.integers(len(digits)))
        stamp = _draw(rng, digits.ink[which], scale)
        free_y, free_x = size[0] - stamp.ink.shape[0], size[1] - stamp.ink.shape[1]
        if free_y < 0 or free_x < 0:
            continue
        stamp = stamp._replace(y=int(rng.integers(free_y + 1)), x=int(rng.integers(free_x + 1)))
        covered = owner[stamp.window][stamp.ink]
        hides = hidden + np.bincount(covered[covered >= 0], minlength=MOST_DIGITS)
        if (hides > limits).any() or any(_iou(stamp, other) > _CROWDED for other in stamps):
            wanted -= int(rng.random() < 0.2 and wanted > FEWEST_DIGITS)  # a full scene gives up in the end
            continue
        hidden, limits[len(stamps)] = hides, _HIDDEN * np.count_nonzero(stamp.ink)
        owner[stamp.window][stamp.ink] = len(stamps)
        stamps.append(stamp)
        labels.append(int(digits.labels[which]))
    return stamps, labels, owner


def _draw(rng: np.random.Generator, scan: NDArray[np.float32], scale: float) -> _Stamp:
    """Draw a digit at a random size, stretch, slant, rotation and stroke width."""
    cell = scale * math.exp(rng.uniform(math.log(_SIZES[0]), math.log(_SIZES[1]))) / CELLS
    stretch, slant = math.exp(rng.uniform(-0.15, 0.15)), rng.uniform(-0.2, 0.2)
    angle = math.radians(rng.uniform(-20.0, 20.0))
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    to_pixels = cell * rotation @ np.array([[stretch, slant], [0.0, 1.0 / stretch]])  # on (x, y), in cells

    reach = CELLS / 2 + 1.0
    corners = to_pixels @ np.array([[-reach, reach, -reach, reach], [-reach, -reach, reach, reach]])
    half_w, half_h = np.ceil(np.abs(corners).max(axis=1)).astype(int)
    shift = rng.uniform(-0.5, 0.5, 2)
    ys, xs = np.mgrid[-half_h : half_h + 1, -half_w : half_w + 1]
    places = np.stack([xs.ravel() - shift[0], ys.ravel() - shift[1]])
    u, v = (np.linalg.inv(to_pixels) @ places + CELLS / 2 + MARGIN) * OVERSAMPLE - 0.5
    level = _bilinear(scan, v, u).reshape(ys.shape)

    edge = rng.uniform(0.4, 0.5)  # the level of the scan that is the stroke's outline
    coverage = np.clip((level - edge) * cell * rng.uniform(0.6, 1.0) + 0.5, 0.0, 1.0)
    strength = (coverage * (0.35 + 0.65 * level)).astype(np.float32)
    ink = coverage >= 0.5
    x1, y1, x2, y2 = _box(ink)
    return _Stamp(ink[y1:y2, x1:x2], strength[y1:y2, x1:x2])


def _bilinear(plane: NDArray[np.float32], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sample a square plane at fractional places; outside it its border continues, which is empty in a glyph."""
    last = plane.shape[0] - 1
    y, x = np.clip(y, 0.0, last - 1e-9), np.clip(x, 0.0, last - 1e-9)
    row, column = y.astype(np.int64), x.astype(np.int64)
    fy, fx = y - row, x - column
    flat, corner = plane.ravel(), row * plane.shape[1] + column
    top = flat[corner] * (1.0 - fx) + flat[corner + 1] * fx
    below = corner + plane.shape[1]
    bottom = flat[below] * (1.0 - fx) + flat[below + 1] * fx
    sampled: NDArray[np.float64] = top * (1.0 - fy) + bottom * fy
    return sampled


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return x1, y1, x2, y2 (the last two exclusive) of the pixels that are set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _iou(one: _Stamp, two: _Stamp) -> float:
    (h1, w1), (h2, w2) = one.ink.shape, two.ink.shape
    wide = min(one.x + w1, two.x + w2) - max(one.x, two.x)
    high = min(one.y + h1, two.y + h2) - max(one.y, two.y)
    shared = max(wide, 0) * max(high, 0)
    return float(shared / (h1 * w1 + h2 * w2 - shared))


def _background(rng: np.random.Generator, photos: Sequence[NDArray[np.uint8]], size: Size) -> NDArray[np.float32]:
    """Cut a random part of a photograph, mirror it by chance, and vary its contrast and colour; float32, 0 to 255."""
    photo = photos[int(rng.integers(len(photos)))]
    largest = min(photo.shape[0] / size[0], photo.shape[1] / size[1])
    share = rng.uniform(0.4, 1.0) * largest
    height, width = int(size[0] * share), int(size[1] * share)
    y, x = rng.integers(photo.shape[0] - height + 1), rng.integers(photo.shape[1] - width + 1)
    part = photo[y : y + height, x : x + width]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    enlarged = cv2.resize(np.ascontiguousarray(part), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    image: NDArray[np.float32] = enlarged.astype(np.float32)
    gain = (rng.uniform(0.5, 1.0) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    image -= image.mean()
    image *= gain
    image += np.float32(rng.uniform(70.0, 185.0))
    return np.clip(image, 0.0, 255.0, out=image)


def _paint(rng: np.random.Generator, image: NDArray[np.float32], stamp: _Stamp) -> None:
    """Blend one digit into the image in a colour that stands out from what is below it."""
    below = image[stamp.window]
    weight = stamp.strength[..., None] * np.float32(rng.uniform(0.9, 1.0))
    ground = float((below * weight).sum(axis=(0, 1)) @ _LUMA / weight.sum())
    colour = rng.uniform(0.0, 255.0, 3).astype(np.float32)
    for _ in range(30):
        if abs(float(colour @ _LUMA) - ground) >= _CONTRAST:
            break
        colour = rng.uniform(0.0, 255.0, 3).astype(np.float32)
    else:
        colour = np.full(3, 0.0 if ground > 127.5 else 255.0, np.float32)
    image[stamp.window] = below * (1.0 - weight) + colour * weight


def coco_dataset(items: Sequence[tuple[str, Scene]]) -> dict[str, object]:
    """Return the COCO object-detection document of named scenes; category ids are 1 to 10 for the digits 0 to 9."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, (name, item) in enumerate(items, 1):
        height, width = item.image.shape[:2]
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for digit, (box, label) in enumerate(zip(item.boxes.tolist(), item.labels.tolist(), strict=True)):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(np.count_nonzero(item.owner == digit)),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    info = {"description": "handwritten digits over photographs"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def write_dataset(
    images: Path,
    annotations: Path | None,
    *,
    split: Split,
    count: int,
    seed: int,
    sizes: Sequence[Size] = (SQUARE,),
    quality: int = 90,
) -> None:
    """Write ``count`` scenes as ``images/NNNN.jpg`` and, where asked for, their COCO document."""
    images.mkdir(parents=True, exist_ok=True)
    items = []
    for number, item in enumerate(scenes(split, count, seed, sizes)):
        name = f"{number:04d}.jpg"
        cv2.imwrite(str(images / name), item.image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        items.append((name, item))
    if annotations is not None:
        annotations.parent.mkdir(parents=True, exist_ok=True)
        annotations.write_text(json.dumps(coco_dataset(items)) + "\n")


def _size(text: str) -> Size:
    width, height = text.lower().split("x")
    return int(height), int(width)


def main() -> None:
    """Parse the command line and write the dataset."""
    parser = argparse.ArgumentParser(description="Write scenes of handwritten digits as a COCO dataset.")
    parser.add_argument("--images", type=Path, required=True, help="the folder for the JPEG files")
    parser.add_argument("--annotations", type=Path, help="the COCO file; none is written unless this is given")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--count", type=int, default=200, help="how many scenes")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", type=_size, action="append", metavar="WxH", help="may be repeated; taken in turn")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality, 1 to 100")
    options = parser.parse_args()
    write_dataset(
        options.images,
        options.annotations,
        split=options.split,
        count=options.count,
        seed=options.seed,
        sizes=options.size or (SQUARE,),
        quality=options.quality,
    )


if __name__ == "__main__":
    main()
