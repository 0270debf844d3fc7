"""What is read of a COCO file: the fields that an evaluation of boxes needs, with their types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from convkit._documents import parse_json_as
from convkit._text import read_text

__all__ = ["MOST_BYTES", "read_coco", "read_fields", "read_images", "read_points"]

MOST_BYTES = 1 << 30
"""Size of the largest annotation file that is read; that of COCO's 118,287 images for training has 470 MB."""

Scalar = int | float | str | bool | None
"""Ids and numbers, of which an error of its own names a wrong one."""


class _Image(msgspec.Struct):
    id: Scalar
    file_name: str
    height: Scalar = None
    width: Scalar = None


class _Category(msgspec.Struct):
    id: Scalar
    name: str


class _Annotation(msgspec.Struct):
    id: Scalar
    image_id: Scalar
    category_id: Scalar
    bbox: list[Scalar]
    area: Scalar = None
    iscrowd: Scalar = None


class _Coco(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


class _Listed(msgspec.Struct):
    images: list[dict[str, Any]]


class _Points(msgspec.Struct):
    id: Scalar
    keypoints: Any = None


class _PointNames(msgspec.Struct):
    name: str
    keypoints: Any = None
    sigmas: Any = None


class _CocoPoints(msgspec.Struct):
    categories: list[_PointNames]
    annotations: list[_Points]


def read_coco(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return images, categories and annotations of a COCO file as plain dicts, without masks and other fields.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than `MOST_BYTES`, no JSON, or a field is missing or of another type.
    """
    found = parse_json_as(read_text(path, most=MOST_BYTES), _Coco)
    return {
        name: [{field: getattr(entry, field) for field in entry.__struct_fields__} for entry in getattr(found, name)]
        for name in found.__struct_fields__
    }


def read_fields(path: Path, names: Sequence[str]) -> dict[Any, dict[str, Any]]:
    """Return further fields of a COCO file's images by their id: those of ``names`` that an image has and not as null.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than `MOST_BYTES`, or no such file.
    """
    images = read_images(path)
    return {entry["id"]: {name: entry[name] for name in names if entry.get(name) is not None} for entry in images}


def read_images(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a COCO file's images as they are.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than `MOST_BYTES`, or no such file.
    """
    return parse_json_as(read_text(path, most=MOST_BYTES), _Listed).images


def read_points(path: Path) -> tuple[dict[Any, Any], list[dict[str, Any]]]:
    """Return the key points of a COCO file's annotations by their id, and of its categories the fields of key points.

    Those are ``name``, ``keypoints`` and ``sigmas``. What is absent is None; nothing is checked.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than `MOST_BYTES`, or no such file.
    """
    found = parse_json_as(read_text(path, most=MOST_BYTES), _CocoPoints)
    categories = [{"name": one.name, "keypoints": one.keypoints, "sigmas": one.sigmas} for one in found.categories]
    return {one.id: one.keypoints for one in found.annotations}, categories
