"""Whose code it was that an exporter could not translate."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

from convkit.errors import ExportError, named
from convkit.model import ModulePatch, Patch

__all__ = ["named_in_exports"]

_MACHINERY = frozenset({"torch", "onnxscript", "onnx", "onnx_ir", "convkit", *sys.stdlib_module_names})
"""Packages that run other code; what they raise is about that code."""


@contextmanager
def named_in_exports(
    patches: Mapping[str, Sequence[Patch]], translations: Mapping[str, Sequence[tuple[Any, Any]]]
) -> Iterator[None]:
    """Say in an `ExportError` of the block which patch, translation or line of the model raised it.

    ``patches`` and ``translations`` (pairs of operator and function) are by plugin.
    """
    try:
        yield
    except ExportError as error:
        if error.__cause__ is not None and (place := _place(error.__cause__, _known(patches, translations))):
            error.message = f"{error.message} ({place})"
            error.hint = f"{error.hint} CONVKIT_DEBUG=1 shows where it fails."
        raise


def _known(
    patches: Mapping[str, Sequence[Patch]], translations: Mapping[str, Sequence[tuple[Any, Any]]]
) -> dict[CodeType, str]:
    """Return the name of each piece of code that a plugin brought."""
    table: dict[CodeType, str] = {}
    for plugin, group in patches.items():
        for patch in group:
            function = patch.forward if isinstance(patch, ModulePatch) else patch.replacement
            if code := getattr(function, "__code__", None):
                table[code] = named(f"patch {patch.name!r}", plugin)
    for plugin, pairs in translations.items():
        for operator, function in pairs:
            if code := getattr(getattr(function, "function", function), "__code__", None):
                table[code] = named(f"the translation of {operator}", plugin)
    return table


def _place(error: BaseException, known: Mapping[CodeType, str]) -> str:
    """Return where the first cause was raised, as far as it was not in the exporter itself."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for cause in reversed(chain):
        for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__))):
            code = frame.f_code
            if code in known:
                return known[code]
            if frame.f_globals.get("__name__", "").partition(".")[0] not in _MACHINERY:
                return f"in {code.co_name}, {Path(code.co_filename).name}:{line}"
    return ""
