"""The key points of annotations, checked for what would make their figures wrong without a word."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from convkit.errors import SettingError
from convkit.evaluation._annotations import Annotations
from convkit.evaluation._coco_schema import read_points
from convkit.results import COCO_JOINTS

__all__ = ["complete_points"]

COCO_SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
               0.089, 0.089)  # fmt: skip
"""How far annotators differ about each of COCO's joints, as a share of the object's size."""


def complete_points(data: Annotations, path: Path, joints: Sequence[str]) -> tuple[tuple[float, ...], list[str]]:
    """Give all annotations their key points; return the constant of each joint in COCO's similarity, and notes.

    Annotations without key points get some that do not count. The constants are a category's own ``sigmas``, or COCO's.

    Raises:
        SettingError: there are none, or of another number, or they are no numbers, or their names are in another order;
            there are no constants for them.
    """
    try:
        found, categories = read_points(path)
    except (OSError, ValueError) as error:
        raise SettingError(f"{path} cannot be read again: {error}.", hint="Check --coco.") from error
    without = 0
    annotations: list[dict[str, Any]] = data.truth.dataset["annotations"]
    for annotation in annotations:
        points = found.get(annotation["id"])
        if points is None:
            without += 1
            points = [0] * (3 * len(joints))
        problem = _problem(points, len(joints))
        if problem:
            raise SettingError(
                f"{path}: the keypoints of annotation {annotation['id']} {problem}.",
                hint=f"The artifact has {len(joints)} joints, and each needs x, y and 0, 1 or 2 for its visibility.",
            )
        annotation["keypoints"] = points
        annotation["num_keypoints"] = sum(seen > 0 for seen in points[2::3])
    if without == len(annotations):
        raise SettingError(
            f"{path} has no annotations with keypoints.", hint="Figures of poses need annotated key points."
        )
    notes = [*_order(categories, path, joints), *_missing(without)]
    return _sigmas(categories, path, joints), notes


def _problem(points: Any, joints: int) -> str:
    if not isinstance(points, list) or len(points) != 3 * joints:
        count = f"{len(points)} values" if isinstance(points, list) else reprlib.repr(points)
        return f"are {count}, not {3 * joints}"
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in points):
        return "are no numbers"
    return "" if all(seen in (0, 1, 2) for seen in points[2::3]) else "have a visibility that is not 0, 1 or 2"


def _missing(without: int) -> Iterator[str]:
    if without:
        yield f"{without} annotations have no keypoints, so that they are ignored where poses are judged"


def _order(categories: Sequence[Mapping[str, Any]], path: Path, joints: Sequence[str]) -> Iterator[str]:
    """Yield a note where the names of the key points are others; refuse the same names in another order."""
    for category in categories:
        names = category["keypoints"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            continue
        theirs, ours = [list(map(_bare, each)) for each in (names, joints)]
        if theirs != ours and sorted(theirs) == sorted(ours):
            raise SettingError(
                f"{path}: the key points of the category {category['name']!r} are in another order than the joints of"
                " the artifact.",
                hint=f"The artifact has {', '.join(joints)}. Put those of the annotations into this order.",
            )
        if theirs != ours and not all(re.fullmatch(r"joint \d+", joint) for joint in joints):
            yield f"the key points of {category['name']!r} have other names than the joints; same order taken"


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _sigmas(categories: Sequence[Mapping[str, Any]], path: Path, joints: Sequence[str]) -> tuple[float, ...]:
    for category in categories:
        own = category["sigmas"]
        if own is None:
            continue
        good = isinstance(own, list) and len(own) == len(joints)
        if not good or not all(isinstance(value, int | float) and 0 < value < math.inf for value in own):
            raise SettingError(
                f"{path}: the sigmas of the category {category['name']!r} are {reprlib.repr(own)}.",
                hint=f"Give {len(joints)} positive numbers, one for each joint.",
            )
        return tuple(map(float, own))
    if len(joints) != len(COCO_JOINTS):
        raise SettingError(
            f"{path} does not say how exact each of the {len(joints)} joints is annotated.",
            hint='Give the category a list "sigmas" with a number for each joint; COCO has its own for 17 joints only.',
        )
    return COCO_SIGMAS
