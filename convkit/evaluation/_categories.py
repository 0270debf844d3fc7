"""Which category of the annotations each class of an artifact is."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from convkit.errors import SettingError, listing
from convkit.evaluation._annotations import Annotations

__all__ = ["category_ids"]


def category_ids(data: Annotations, classes: tuple[str, ...]) -> tuple[list[int], list[str]]:
    """Return the category id of every class, and notes on what a reader of the figures has to know.

    Names that differ in case, spaces, underscores or hyphens are the same unless that is ambiguous. Where no name fits,
    the classes are the categories in the order of their ids.

    Raises:
        SettingError: two categories have the name of a class, some names fit and others do not, or the numbers differ.
    """
    categories = data.truth.dataset["categories"]
    fitting: list[list[int]] = []
    for plain in (str, _folded, _bare):
        by_name: dict[str, list[int]] = {}
        for category in categories:
            by_name.setdefault(plain(str(category["name"])), []).append(category["id"])
        fitting = [by_name.get(plain(name), []) for name in classes]
        if all(len(ids) == 1 for ids in fitting) and len(set(map(plain, classes))) == len(classes):
            found = [ids[0] for ids in fitting]
            return found, list(_unknown(data, set(found)))
    for name, ids in zip(classes, fitting, strict=True):
        if len(ids) > 1:
            raise SettingError(
                f"The categories {', '.join(map(str, ids))} of the annotations have the name of the class {name!r}.",
                hint="Give every category a name of its own.",
            )
    if len(categories) != len(classes):
        raise SettingError(
            f"The artifact has {len(classes)} classes, the annotations have {len(categories)} categories.",
            hint="Convert with --names so that the class names are those of the annotations. Only detectors are"
            " evaluated.",
        )
    if any(fitting) and not all(fitting):
        missing = [name for name, ids in zip(classes, fitting, strict=True) if not ids]
        raise SettingError(
            f"The annotations have no category of the class {', '.join(map(repr, missing))}.",
            hint="Convert with --names so that the class names are those of the annotations.",
        )
    note = "categories and classes have other names, so the classes are the categories in the order of their ids"
    return sorted(category["id"] for category in categories), [note]


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "", _folded(name))


def _unknown(data: Annotations, found: set[int]) -> Iterator[str]:
    """Yield a note if categories that the artifact does not know have annotations: their AP of 0 counts."""
    names = {category["id"]: category["name"] for category in data.truth.dataset["categories"]}
    used = dict.fromkeys(entry["category_id"] for entry in data.truth.dataset["annotations"])
    if lost := [names[category] for category in used if category not in found]:
        yield f"the artifact has no class for the categories {listing(lost)}; each has an AP of 0 in the mean"
