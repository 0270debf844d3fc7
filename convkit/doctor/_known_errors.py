"""Known errors of other tools, and the places of a text where they occur."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from convkit.plugins import manager

__all__ = ["KnownError", "KnownErrorMatch", "explain", "search"]


@dataclass(frozen=True)
class KnownError:
    """An error of another tool: the regular expression that finds it in a text, its cause, and its cure.

    The case of letters does not matter. A wrong expression raises `re.error`.
    """

    pattern: str
    cause: str
    cure: str

    def __post_init__(self) -> None:
        re.compile(self.pattern, flags=re.IGNORECASE)

    @classmethod
    def read(cls, file: Path) -> tuple[KnownError, ...]:
        """Return the known errors of a TOML file, in its order.

        Each is a table ``[[error]]`` with ``pattern`` (a string, or a list of alternatives), ``cause`` and ``cure``.
        """
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib

        entries = tomllib.loads(file.read_text(encoding="utf-8"))["error"]
        return tuple(cls(_alternatives(entry.pop("pattern")), **entry) for entry in entries)


@dataclass(frozen=True)
class KnownErrorMatch:
    """A known error, the line of the text where it was found, and the plugin that knows it."""

    plugin: str
    line: str
    error: KnownError


def explain(text: str) -> list[KnownErrorMatch]:
    """Return the errors in ``text`` that any plugin knows, in the order of the text.

    For each line only the first match is returned: plugins in call order, the core last, each in its own order.

    Raises:
        PluginError: a plugin cannot read its known errors.
    """
    found: dict[str, KnownErrorMatch] = {}
    for plugin, errors in manager().gather("convkit_known_errors").items():
        for error, line in search(text, errors):
            found.setdefault(line, KnownErrorMatch(plugin, line, error))
    return sorted(found.values(), key=lambda match: text.index(match.line))


def search(text: str, errors: Iterable[KnownError]) -> list[tuple[KnownError, str]]:
    """Return those of ``errors`` that occur in ``text``, each with the first line that matches."""
    found = []
    for error in errors:
        match = re.search(error.pattern, text, flags=re.IGNORECASE)
        if match:
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            found.append((error, text[start : end if end >= 0 else None].strip()))
    return found


def _alternatives(pattern: str | list[str]) -> str:
    return pattern if isinstance(pattern, str) else "|".join(pattern)
