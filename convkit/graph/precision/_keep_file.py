"""The file with the nodes that stay in float32: one name a line, and why, for people to review."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convkit._text import read_text
from convkit.errors import ConversionError, SettingError, suggest, unwritten
from convkit.files import write_atomic

if TYPE_CHECKING:
    import onnx

__all__ = ["keep_file_text", "read_keep_file", "write_keep_file"]

_MARK = "#"
_REASON = re.compile(r"\s#")
_SHOWN = 5
"""Unknown names that an error lists."""


def read_keep_file(path: Path, graph: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the nodes that a file lists; ``graph`` is the model that they are in.

    A line has one name; what follows a ``#`` behind a space, and lines that begin with ``#``, are comments.

    Raises:
        SettingError: the file cannot be read or is no text, or lists a name that no node of the graph has.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read: {error.strerror or error}.", hint="`convkit bisect … --output FILE` writes one."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} is no text in UTF-8.", hint="Save it as UTF-8, one node name a line.") from error
    except ValueError as error:
        raise SettingError(f"{path} cannot be read: {error}.", hint="Give a text, one node name a line.") from error
    known = {node.name for node in graph.graph.node if node.name}
    found = [(number, _name(line, known)) for number, line in enumerate(lines, 1)]
    unknown = [(number, name) for number, name in found if name and name not in known]
    if unknown:
        raise _unknown(path, unknown, known)
    return frozenset(name for _, name in found if name)


def _name(line: str, known: Collection[str]) -> str:
    """Return the name in a line; one that contains the mark of a comment itself is found as it stands."""
    text = line.strip()
    candidates = [text, *(text[: match.start()].rstrip() for match in _REASON.finditer(text))]
    found = next((candidate for candidate in candidates if candidate in known), None)
    if found is not None:
        return found
    return "" if text.startswith(_MARK) else candidates[min(1, len(candidates) - 1)]


def _unknown(path: Path, unknown: Sequence[tuple[int, str]], known: Collection[str]) -> SettingError:
    listed = "; ".join(
        f"line {number}: {name[:100]!r} {suggest(name, known)}".rstrip() for number, name in unknown[:_SHOWN]
    )
    more = f"; and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    count = f"{len(unknown)} names" if len(unknown) > 1 else "a name"
    return SettingError(
        f"{path} lists {count} that no node of the graph has: {listed}{more}",
        hint="Names change when a model is exported or rewritten anew; `convkit bisect ARTIFACT` lists them.",
    )


def keep_file_text(reasons: Mapping[str, str], heading: Sequence[str] = ()) -> str:
    """Return the text of such a file: ``heading`` as comments, then each node with its reason, in the order given.

    Raises:
        ConversionError: a name cannot stand in a line.
    """
    lines = [f"{_MARK} {text}".rstrip() for entry in heading for text in entry.splitlines() or [""]]
    width = max(map(len, reasons), default=0)
    for name, reason in reasons.items():
        if not name or name.splitlines() != [name] or name.strip() != name or name.startswith("\ufeff"):
            raise ConversionError(
                f"The node name {name!r} cannot stand in a list of names, one a line.",
                hint="Give the nodes of the graph names without line breaks and spaces at their ends.",
            )
        lines.append(f"{name:<{min(width, 60)}}  {_MARK} {' '.join(reason.split())}" if reason else name)
    return "\n".join(lines) + "\n"


def write_keep_file(path: Path, reasons: Mapping[str, str], heading: Sequence[str] = ()) -> None:
    """Write `keep_file_text` to a file, whole or not at all.

    Raises:
        ConversionError: a name cannot stand in a line.
        OutputError, EnvironmentProblem: the file cannot be written.
    """
    text = keep_file_text(reasons, heading)
    try:
        write_atomic(path, text)
    except OSError as error:
        raise unwritten(path, error, "Name a file that you may write.") from error
