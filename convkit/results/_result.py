"""What every result can do, and how two of them differ."""

from __future__ import annotations

import math
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self

__all__ = ["DRAW_SCORE", "SLACK", "Difference", "Result", "json_difference", "json_scales"]

SLACK = 1e-4
"""Difference of two scores that rounding explains."""
DRAW_SCORE = 0.3
"""Below this score results clutter a picture more than they tell."""


@dataclass(frozen=True)
class Difference:
    """How the results of two runs on one input differ.

    ``expected`` items of the reference, of which ``matched`` have a partner. ``ties`` have none, but rounding explains
    it; ``unexplained`` counts all others, on both sides. ``figures`` are the largest deviations of matched pairs by
    name, ``floors`` what each of them may always deviate, ``ceilings`` what nobody would call the same result, however
    much PyTorch's own float32 deviates; a ceiling of ``unexplained`` is a number of items, by default a hundredth of
    those expected.
    """

    expected: int
    matched: int
    ties: int
    unexplained: int
    figures: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    ceilings: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


class Result(ABC):
    """What a model finds in one input."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""

    @abstractmethod
    def summary(self) -> str:
        """Return the result as a short line for people."""

    def compare(self, other: Result, *, slack: float = SLACK) -> Difference:
        """Return how another result of the same input differs; ``slack`` is the difference that rounding explains.

        The default compares the JSON documents, numbers relative to ``slack``.
        """
        note = json_difference(self.to_json(), other.to_json(), slack, "result")
        return Difference(1, int(not note), 0, int(bool(note)), note=note)

    def above(self, score: float) -> Self:
        """Return what has at least that score; the default returns everything."""
        del score
        return self

    def draw(self, raw: np.ndarray) -> np.ndarray | None:
        """Return a copy of the BGR image with the result drawn on it; None, the default, where it cannot be drawn."""
        del raw
        return None

    def draw_beside(self, raw: np.ndarray, other: Result) -> np.ndarray | None:
        """Return what `draw` does, with whatever has no partner in another result of the same input made to stand out.

        The default marks nothing.
        """
        del other
        return self.draw(raw)


def json_difference(
    expected: Any, actual: Any, slack: float, where: str, scales: Mapping[str, float] | None = None
) -> str:
    """Return where two JSON values first differ by more than ``slack`` (relative above 1), or an empty string.

    ``scales`` are magnitudes by field, as `json_scales` returns them: ``slack`` is then relative to that of the field.
    """
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        found = (json_difference(expected[key], actual[key], slack, f"{where}.{key}", scales) for key in expected)
        return next(filter(None, found), "")
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{where}: {len(expected)} items and {len(actual)}"
        pairs = enumerate(zip(expected, actual, strict=True))
        return next(filter(None, (json_difference(a, b, slack, f"{where}[{i}]", scales) for i, (a, b) in pairs)), "")
    if isinstance(expected, float) and isinstance(actual, float | int):
        # An infinite expectation would allow an infinite difference.
        scale = max(1.0, abs(expected), scales.get(_field(where), 0.0) if scales else 0.0)
        near = math.isfinite(expected) and abs(expected - actual) <= slack * scale
        return "" if near or expected == actual else f"{where}: {expected} and {actual}"
    return "" if expected == actual else f"{where}: {reprlib.repr(expected)} and {reprlib.repr(actual)}"


def json_scales(value: Any, where: str) -> dict[str, float]:
    """Return the largest magnitude of the finite numbers that are not whole, by field: a place without its indices."""
    if isinstance(value, dict):
        found = [json_scales(item, f"{where}.{key}") for key, item in value.items()]
    elif isinstance(value, list):
        found = [json_scales(item, f"{where}[]") for item in value]
    else:
        number = abs(value) if isinstance(value, float) and math.isfinite(value) else 0.0
        return {where: number}
    scales: dict[str, float] = {}
    for one in found:
        for field_, number in one.items():
            scales[field_] = max(scales.get(field_, 0.0), number)
    return scales


def _field(where: str) -> str:
    return re.sub(r"\[\d+\]", "[]", where)
