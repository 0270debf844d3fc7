"""The annotations of a Pascal VOC folder, one XML file an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from convkit._text import read_text
from convkit.errors import SettingError, listing
from convkit.evaluation._annotations import Annotations

__all__ = ["FOLDERS", "read_voc"]

FOLDERS = ("Annotations", "JPEGImages", "ImageSets/Main")
"""Those of the annotations, the images, and the lists of names."""
MOST_BYTES = 1 << 22
"""Size of the largest annotation file that is read; those of VOC have 20 kB at most."""


def read_voc(folder: Path, split: str | None, classes: Sequence[str]) -> Annotations:
    """Read the annotations of a split, of all images where ``split`` is None; boxes are x, y, width, height from 0 on.

    The categories are the names that are annotated and ``classes``, those of an artifact. Annotations of difficult
    objects have ``difficult``.

    Raises:
        SettingError: this is no such folder, a file is none of its annotations, or no class is annotated.
    """
    names = _names(folder, split)
    images, sizes, found = {}, {}, []
    for number, name in enumerate(names, 1):
        file = folder / FOLDERS[0] / f"{name}.xml"
        root = _parsed(file)
        images[number] = (root.findtext("filename") or f"{name}.jpg").strip()
        size = [root.findtext(f"size/{side}") for side in ("height", "width")]
        if all(text and text.strip().isdigit() and int(text) > 0 for text in size):
            sizes[number] = (int(str(size[0])), int(str(size[1])))
        found += [{"image_id": number, **entry} for entry in _objects(file, root)]
    annotated = sorted({entry["name"] for entry in found})
    if not found:
        raise SettingError(f"{folder} has no annotated objects.", hint="Without boxes to find there are no figures.")
    if not set(annotated) & set(classes):
        raise SettingError(
            f"{folder} annotates {listing(map(repr, annotated))}, and none of these is a class of the artifact.",
            hint="Convert with --names so that the class names are those of the annotations.",
        )
    categories = {name: number for number, name in enumerate(sorted({*annotated, *classes}), 1)}
    annotations = [
        {**entry, "id": number, "category_id": categories[entry.pop("name")]} for number, entry in enumerate(found, 1)
    ]
    document = {
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    return Annotations(SimpleNamespace(dataset=document), images, sizes, ())


def _names(folder: Path, split: str | None) -> list[str]:
    """Return the names of the images of a split."""
    annotations = folder / FOLDERS[0]
    if not annotations.is_dir():
        raise SettingError(
            f"{folder} has no folder {FOLDERS[0]}.", hint="Give a folder such as VOCdevkit/VOC2007, with --voc."
        )
    if split is None:
        names = sorted(file.stem for file in annotations.glob("*.xml"))
    else:
        file = folder / FOLDERS[2] / f"{split}.txt"
        known = sorted(each.stem for each in file.parent.glob("*.txt") if "_" not in each.stem)
        try:
            names = [line.split()[0] for line in read_text(file, most=MOST_BYTES).splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise SettingError(
                f"{file} cannot be read: {error}.", hint=f"The splits there are {listing(known) or 'none'}."
            ) from error
    if not names or len(set(names)) < len(names):
        what = "an image twice" if names else "no images"
        raise SettingError(f"{folder}, split {split or 'all'}, lists {what}.", hint="Check --voc and --split.")
    return names


def _parsed(file: Path) -> ElementTree.Element:
    try:
        text = read_text(file, most=MOST_BYTES)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:  # which could make a small file a large one
            raise ValueError("it declares a document type")
        return ElementTree.fromstring(text)  # noqa: S314
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise SettingError(
            f"{file} cannot be read: {error}.", hint="Each image of the split needs an annotation file of VOC."
        ) from error


def _objects(file: Path, root: ElementTree.Element) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file; VOC counts pixels from 1, and a box contains those of its last row and column."""
    for entry in root.iter("object"):
        name = (entry.findtext("name") or "").strip()
        texts = [entry.findtext(f"bndbox/{side}") or "" for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = (float(text) for text in texts)
        except ValueError:
            x1 = y1 = x2 = y2 = math.nan
        if not name or not (math.isfinite(x1 + y1 + x2 + y2) and x1 <= x2 and y1 <= y2):
            raise SettingError(
                f"{file}: an object has the name {name!r} and the box {', '.join(map(repr, texts))}.",
                hint="Each object needs a name, and a bndbox with xmin, ymin, xmax and ymax.",
            )
        difficult = (entry.findtext("difficult") or "0").strip() not in ("0", "")
        yield {"name": name, "bbox": [x1 - 1, y1 - 1, x2 - x1, y2 - y1], "difficult": difficult}
