"""Known error texts of the tools around convkit, with cause and cure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Remedy", "diagnose"]


@dataclass(frozen=True)
class Remedy:
    """A regular expression that recognises an error text, what it means and what to do."""

    pattern: str
    cause: str
    cure: str


def diagnose(text: str, remedies: Iterable[Remedy]) -> list[tuple[Remedy, str]]:
    """Return the remedies that fit ``text``, each with the first line of it that matched."""
    found = []
    for remedy in remedies:
        match = re.search(remedy.pattern, text, flags=re.IGNORECASE)
        if match:
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            found.append((remedy, text[start : end if end >= 0 else None].strip()))
    return found
