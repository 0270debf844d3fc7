"""A kind of fault, and the places where it can be planted in an artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convkit.self_test._subject import Subject

if TYPE_CHECKING:
    from convkit.self_test._judge import Judge

__all__ = ["Fault", "Site", "engine_site"]


@dataclass(frozen=True)
class Site:
    """One place of a fault; ``plant`` returns the artifact with the fault there."""

    where: str
    plant: Callable[[], Subject]


@dataclass(frozen=True)
class Fault:
    """A kind of mistake. ``part`` says where it is made: graph, engine, preprocess, decode or pipeline.

    ``sites`` yields its places; none means that the artifact has no place for it.
    """

    kind: str
    part: str
    cause: str
    sites: Callable[[Judge, np.random.Generator], Iterator[Site]]


def engine_site(where: str, run: Callable[..., object]) -> Site:
    """Return a site at which ``run`` takes the place of the engine."""
    return Site(where, lambda: Subject(run=run))  # type: ignore[arg-type]
