"""What joins the views of an image in every task: means of maps, and the suppression of results of several scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from convkit.errors import SettingError
from convkit_models.centernet._augment import Augmentation
from convkit_models.centernet.tasks._soft_nms import soft_nms

__all__ = ["MOST", "best_hundred", "check_form", "mean_maps", "pairs", "probabilities", "suppressed"]

MOST = 100
"""The number of boxes of an image, but for equal scores."""

Maps = Mapping[str, np.ndarray]


def check_form(augmentation: Augmentation, form: str, known: tuple[str, ...]) -> None:
    """Check that the graph returns maps, where these are averaged.

    Raises:
        SettingError: it returns what it chose itself.
    """
    if augmentation.flip and form not in known:
        raise SettingError(
            f"The graph of the form {form!r} returns what it chose of one image, so that flip has nothing to average.",
            hint=f"Convert with --form {known[0]}.",
        )


def pairs(
    augmentation: Augmentation, outputs: Sequence[Maps], metas: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Maps, Maps | None]]:
    """Yield for each scale the ``meta``, the maps of the image, and those of the mirrored one, where there is one."""
    step = 1 + augmentation.flip
    for first in range(0, len(outputs), step):
        yield metas[first], outputs[first], outputs[first + 1] if augmentation.flip else None


def mean_maps(
    plain: Maps, flipped: Maps, mirrored: Mapping[str, Callable[[np.ndarray], np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the maps of an image with those that ``mirrored`` names replaced by the mean of both views.

    Each of its functions mirrors a map back. Heat maps, whose names begin with ``hm``, become probabilities.
    """
    joined: dict[str, np.ndarray] = dict(plain)
    for name in plain.keys() & mirrored.keys():
        both = [probabilities(maps[name]) if name.startswith("hm") else maps[name] for maps in (plain, flipped)]
        joined[name] = both[0] + mirrored[name](both[1])
        joined[name] /= 2
    return joined


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-logit)) in the floating type of the logits, as fast as a whole map needs."""
    found: np.ndarray = np.negative(logits)
    with np.errstate(over="ignore"):
        np.exp(found, out=found)
    found += 1
    np.reciprocal(found, out=found)
    return found


def suppressed(rows: np.ndarray, labels: np.ndarray, *, fixed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of x1, y1, x2, y2, score … and their labels after soft suppression within each label.

    As in the original, copies of rows that moved are among them, unless ``fixed``.
    """
    kept, classes = [np.zeros((0, rows.shape[1]), np.float32)], [np.zeros(0, np.int64)]
    for label in np.unique(labels):
        own = np.ascontiguousarray(rows[labels == label], np.float32)
        remaining = soft_nms(own)
        kept.append(own[:remaining] if fixed else own)
        classes.append(np.full(len(kept[-1]), label))
    return np.concatenate(kept), np.concatenate(classes)


def best_hundred(scores: np.ndarray, most: int = MOST) -> np.ndarray:
    """Return the indices of the best scores, best first: a hundred, and more where the last ones are equal."""
    enough = np.arange(len(scores))
    if len(scores) > most:
        enough = np.flatnonzero(scores >= np.partition(scores, -most)[-most])
    return enough[np.argsort(-scores[enough], kind="stable")]
