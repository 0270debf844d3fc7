"""Few of many cases, in which all values still meet each other. With ``CONVKIT_EVERY_CASE=1`` tests take all cases."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

EVERY_CASE = os.environ.get("CONVKIT_EVERY_CASE") == "1"


def covering(cases: Sequence[T], values: Callable[[T], Mapping[str, Any]], together: int = 2) -> list[T]:
    """Return cases that have between them all that ``together`` values of a case have in common in any of the cases.

    With 1 each value of each name occurs in what is returned; with 2 each two values that occur together in a case.
    """
    return list(cases) if EVERY_CASE else _covering(cases, values, together)


def crossed(**values: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrise by the product of values, of which each two of different names meet in what is left."""
    cases = list(product(*values.values()))
    return pytest.mark.parametrize(tuple(values), covering(cases, lambda case: dict(zip(values, case, strict=True))))


def _covering(cases: Sequence[T], values: Callable[[T], Mapping[str, Any]], together: int) -> list[T]:
    missing = [meetings(values(case), together) for case in cases]
    chosen = []
    while any(missing):
        best = max(range(len(cases)), key=lambda index: len(missing[index]))
        chosen.append(best)
        found = set(missing[best])
        missing = [each - found for each in missing]
    return [cases[index] for index in sorted(chosen)]


def meetings(values: Mapping[str, Any], together: int) -> set[tuple[tuple[str, Any], ...]]:
    """The values that meet in a case, as many ``together`` as that."""
    return set(combinations(sorted(values.items(), key=lambda pair: pair[0]), together))
