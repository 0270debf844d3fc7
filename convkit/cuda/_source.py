"""Flatten sources: one text without includes for NVRTC, nvcc or a C++ compiler."""

from __future__ import annotations

import re
from pathlib import Path

from convkit.errors import KernelError

__all__ = ["INCLUDE", "flatten"]

INCLUDE = Path(__file__).parent / "include"
"""The folder of the headers that every kernel may include."""
_DIRECTIVE = re.compile(r"^\s*#\s*include\s*(\S.*?)\s*(//.*)?$")


def flatten(path: Path | str) -> str:
    """Return the text of a source with its quoted includes inserted, each file once.

    An include is looked up beside the file that includes it, then in `INCLUDE`. ``#line`` directives preserve file
    names and line numbers in compiler messages.

    Raises:
        KernelError: a file is missing or unreadable, includes itself, or includes a system header.
    """
    return "".join(_lines(Path(path), [], set()))


def _lines(path: Path, stack: list[Path], done: set[Path]) -> list[str]:
    try:
        path = path.resolve(strict=True)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KernelError(
            f"The kernel source {path} cannot be read: {error}.",
            hint="Is it part of the package? Wheels contain files inside of a package's folder only.",
        ) from error
    done.add(path)
    result = [f'#line 1 "{path.name}"\n']
    for number, line in enumerate(text.splitlines(), start=1):
        match = _DIRECTIVE.match(line)
        if not match:
            result.append(line + "\n")
            continue
        place = f"{path.name}, line {number}"
        found = _find(match.group(1), path, place)
        if found in (*stack, path):
            chain = " -> ".join(file.name for file in (*stack, path, found))
            raise KernelError(f"{place}: the includes are circular: {chain}.")
        if found not in done:
            result += _lines(found, [*stack, path], done)
        result.append(f'#line {number + 1} "{path.name}"\n')
    return result


def _find(what: str, path: Path, place: str) -> Path:
    """Return the file that an include directive means."""
    match = re.fullmatch(r'"([^"]+)"', what)
    if not match:
        raise KernelError(
            f"{place}: a kernel cannot include {what}: its text must compile with no other file.",
            hint='Only #include "..." of files beside it or of convkit/cuda/include works.',
        )
    for folder in (path.parent, INCLUDE):
        if (folder / match.group(1)).is_file():
            return (folder / match.group(1)).resolve()
    raise KernelError(
        f"{place}: there is no {match.group(1)!r} beside it, nor in {INCLUDE}.", hint="Is the name spelled right?"
    )
