"""What differs between the results of two engines on the same images, and drawings of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convkit.evaluation._flow import Image
from convkit.processing import read_image
from convkit.results import Detections, Poses

__all__ = ["Change", "Changes", "changes_between"]

LISTED = 1000
"""Images whose changes a report lists, those with the most; all of them are counted."""

Found = Detections | Poses


@dataclass(frozen=True)
class Change:
    """What one of two engines found in an image and the other did not, by the engine's name."""

    image: int
    file: Path
    only: Mapping[str, Found]

    @property
    def count(self) -> int:
        """The number of boxes or poses."""
        return sum(map(len, self.only.values()))

    def to_json(self) -> dict[str, Any]:
        """Return the change as a JSON object."""
        return {
            "image_id": self.image,
            "file": str(self.file),
            "only": {name: next(iter(found.to_json().values())) for name, found in self.only.items()},
        }


@dataclass(frozen=True)
class Changes:
    """How many boxes or poses only one of two engines found, in how many images, and where the most are.

    ``score`` is the lowest score that counts; the partner of one that counts may have any.
    """

    score: float
    images: int
    only: Mapping[str, int]
    worst: Sequence[Change]

    def to_json(self) -> dict[str, Any]:
        """Return the changes as a JSON object."""
        return {
            "score": self.score,
            "images": self.images,
            "only": dict(self.only),
            "worst": [change.to_json() for change in self.worst],
        }


def changes_between(
    results: Iterable[tuple[Mapping[str, Found], Image]],
    names: Sequence[str],
    score: float,
    draw: Callable[[str, np.ndarray], None] | None,
) -> Changes:
    """Return what only one of two engines found in each image; ``results`` are both engines' of an image, by name.

    ``draw`` gets the file's name and the drawing of each image with changes.
    """
    worst: list[Change] = []
    only, count = dict.fromkeys(names, 0), 0
    for both, image in results:
        change = Change(image.id, image.file, dict(_differing(both, score)))
        if not change.count:
            continue
        count += 1
        for name, found in change.only.items():
            only[name] += len(found)
        worst.append(change)
        if len(worst) > 2 * LISTED:
            worst = sorted(worst, key=lambda one: -one.count)[:LISTED]
        if draw:
            draw(image.file.name, _side_by_side(read_image(image.file), both, score))
    return Changes(score, count, only, sorted(worst, key=lambda one: -one.count)[:LISTED])


def _differing(results: Mapping[str, Found], score: float) -> Iterator[tuple[str, Found]]:
    """Yield for each of two engines what it found with at least ``score``, and the other not at all."""
    (first, a), (second, b) = results.items()
    yield first, a.above(score).unmatched(b)  # type: ignore[arg-type]  # both are of one kind
    yield second, b.above(score).unmatched(a)  # type: ignore[arg-type]


def _side_by_side(raw: np.ndarray, results: Mapping[str, Found], score: float) -> np.ndarray:
    """Return the image twice, with what each of two engines found; what the other did not find stands out."""
    import cv2

    from convkit.results import draw_caption

    (first, a), (second, b) = results.items()
    halves = [
        draw_caption(own.above(score).draw_beside(raw, other), name)
        for name, own, other in ((first, a, b), (second, b, a))
    ]
    return np.asarray(cv2.hconcat(halves))
