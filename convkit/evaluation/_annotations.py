"""The annotations of a COCO file, checked for all with which figures would be wrong without a word."""

from __future__ import annotations

import contextlib
import io
import math
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convkit.errors import EnvironmentProblem, SettingError, listing
from convkit.evaluation._coco_schema import read_coco

__all__ = ["Annotations", "read_annotations"]

BEYOND = 0.02
"""The part of an image's size by which a box may lie outside of it: annotators and augmentations round."""


@dataclass(frozen=True)
class Annotations:
    """What `read_annotations` found: pycocotools' table; by image id the file name and the (height, width), if any.

    ``notes`` say what was repaired or left out.
    """

    truth: Any
    names: Mapping[int, str]
    sizes: Mapping[int, tuple[int, int]]
    notes: tuple[str, ...]


def read_annotations(path: Path) -> Annotations:
    """Read a COCO file; what would falsify the figures is refused or, where only one repair is possible, repaired.

    Raises:
        SettingError: it is no such file, or figures of it would say nothing.
        EnvironmentProblem: pycocotools is missing.
    """
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise EnvironmentProblem(
            "convkit evaluate needs pycocotools.", hint='pip install "convkit[evaluate]"'
        ) from error
    try:
        document = read_coco(path)
        if not document["categories"] or not document["images"]:
            raise KeyError("images or categories are empty")
        _check_ids(path, document)
        names = {image["id"]: image["file_name"] for image in document["images"]}
        sizes = {image["id"]: size for image in document["images"] if (size := _size(image))}
        for annotation in document["annotations"]:
            _complete(annotation)
        _check_names(path, names)
        _check_boxes(path, document["annotations"], sizes)
        notes = [*_left_out(document, names), *_areas(document["annotations"])]
        truth = COCO()
        truth.dataset = document
        with contextlib.redirect_stdout(io.StringIO()):
            truth.createIndex()
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}.", hint="Check --coco.") from error
    except (
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        raise SettingError(
            f"{path} is not a COCO annotation file: {error}.",
            hint="It needs the lists images, annotations (with bbox) and categories.",
        ) from error
    if not document["annotations"]:
        raise SettingError(
            f"{path} has no annotations of the listed images.", hint="Without boxes to find there are no figures."
        )
    return Annotations(truth, names, sizes, tuple(notes))


def _check_ids(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse ids with which the figures would be wrong without a word.

    Raises:
        SettingError: an id is not a whole number or occurs twice, or one refers to nothing.
    """
    known: dict[str, set[int]] = {}
    for kind, name in (("images", "image"), ("categories", "category"), ("annotations", "annotation")):
        known[name] = set()
        for entry in document[kind]:
            number = _whole(path, f"the id of an entry of {kind}", entry["id"])
            if number in known[name]:
                raise SettingError(
                    f"{path}: two entries of {kind} have the id {number}.", hint="Number them, each with its own id."
                )
            known[name].add(number)
    if 0 in known["annotation"]:
        raise SettingError(
            f"{path}: an annotation has the id 0, which COCO's evaluation takes for no annotation.",
            hint="Number the annotations from 1.",
        )
    images = {_whole(path, "the image_id of an annotation", entry["image_id"]) for entry in document["annotations"]}
    if images and not images & known["image"]:
        raise SettingError(
            f"{path}: no annotation has the image_id of a listed image.",
            hint="Are the images and the annotations numbered alike?",
        )
    for entry in document["annotations"]:
        number = _whole(path, "the category_id of an annotation", entry["category_id"])
        if number not in known["category"]:
            raise SettingError(
                f"{path}: annotation {entry['id']} has the category_id {number}, which no category has.",
                hint="Add the category, or remove the annotations of it.",
            )


def _complete(annotation: dict[str, Any]) -> None:
    """Give an annotation the crowd flag and the area that it lacks or has as null; the area is that of its box.

    Raises:
        ValueError: they or the box are no numbers, or the size is negative.
    """
    area: Any = annotation.get("area")
    crowd, box = annotation.get("iscrowd"), annotation["bbox"]
    if len(box) != 4:
        raise ValueError(f"the bbox of annotation {annotation['id']} is {reprlib.repr(box)}")
    if area is None and all(map(_is_number, box)):
        annotation["area"] = area = box[2] * box[3]
    annotation["iscrowd"] = crowd = 0 if crowd is None else crowd
    for name, value in (("bbox", box), ("area", [area])):
        if not all(_is_number(number) for number in value):
            raise ValueError(f"the {name} of annotation {annotation['id']} is {reprlib.repr(annotation[name])}")
    if box[2] < 0 or box[3] < 0 or area < 0:
        raise ValueError(f"annotation {annotation['id']} has a negative size: bbox {reprlib.repr(box)}, area {area}")
    if crowd not in (0, 1):
        raise ValueError(f"iscrowd of annotation {annotation['id']} is {reprlib.repr(crowd)}")


def _whole(path: Path, place: str, value: Any) -> int:
    """Return an id that is a whole number and that float64, in which pycocotools holds it, represents exactly."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 2**53:
        raise SettingError(
            f"{path}: {place} is {reprlib.repr(value)}, not a whole number up to 2^53.",
            hint="Write ids as JSON numbers, for example 17, in every list.",
        )
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    size = image.get("height"), image.get("width")
    return size if all(isinstance(value, int) and value > 0 for value in size) else None  # type: ignore[return-value]


def _check_names(path: Path, names: Mapping[int, str]) -> None:
    """Refuse two images of one file: each would lack the boxes of the other."""
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise SettingError(
            f"{path}: {len(twice)} file names belong to several images: {listing(twice)}.",
            hint="List every image once; where folders were put together, keep them in file_name.",
        )


def _check_boxes(path: Path, annotations: Sequence[Mapping[str, Any]], sizes: Mapping[int, tuple[int, int]]) -> None:
    """Refuse boxes in another form than pixels x, y, width, height."""
    boxes = [entry["bbox"] for entry in annotations]
    if boxes and max(value for box in boxes for value in box) <= 1:
        raise SettingError(
            f"{path}: every bbox is within 0 to 1, for example {reprlib.repr(boxes[0])}.",
            hint="COCO has boxes in pixels: x, y, width and height. Multiply them by the size of the image.",
        )
    beyond = 0
    for entry in annotations:
        height, width = sizes.get(entry["image_id"], (math.inf, math.inf))
        x, y, w, h = entry["bbox"]
        beyond += x + w > (1 + BEYOND) * width + 1 or y + h > (1 + BEYOND) * height + 1
        if not (0 <= x < w <= width + 1 and 0 <= y < h <= height + 1):
            return  # as corners these make no sense
    if 4 * beyond > len(annotations):
        raise SettingError(
            f"{path}: {beyond} of {len(annotations)} boxes reach beyond their image, and all make sense as two corners,"
            f" for example {reprlib.repr(boxes[0])}.",
            hint="COCO has x, y, width and height: subtract the first corner from the second.",
        )


def _left_out(document: dict[str, Any], names: Mapping[int, str]) -> Iterator[str]:
    """Take out annotations that no detection can match; yield what was taken out."""
    rest = []
    strangers = flat = 0
    for entry in document["annotations"]:
        if entry["image_id"] not in names:
            strangers += 1
        elif not entry["iscrowd"] and entry["bbox"][2] * entry["bbox"][3] == 0:
            flat += 1
        else:
            rest.append(entry)
    document["annotations"] = rest
    if strangers:
        yield f"left out {strangers} annotations of images that are not listed"
    if flat:
        yield f"left out {flat} annotations whose box has no area, which no detection can match"
    same = Counter((entry["image_id"], entry["category_id"], *entry["bbox"]) for entry in rest)
    if twice := sum(count - 1 for count in same.values()):
        yield f"{twice} annotations repeat another one; each but the first counts as not found"


def _areas(annotations: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Give annotations with a box but an area of 0 the area of the box; yield what was done."""
    empty = [entry for entry in annotations if entry["area"] == 0 and entry["bbox"][2] * entry["bbox"][3] > 0]
    for entry in empty:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    if empty:
        yield f"took the area of the box for {len(empty)} annotations whose area is 0"
