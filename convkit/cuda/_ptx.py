"""Read the entry points of PTX, and compare them with the declaration."""

from __future__ import annotations

import re
from dataclasses import dataclass

from convkit.cuda._compile import CompiledKernel
from convkit.cuda._declaration import Variant
from convkit.errors import KernelError

__all__ = ["PtxEntry", "check_signature", "parse_ptx"]

_TYPES = {
    "int32": {"u32", "s32", "b32"},
    "uint32": {"u32", "s32", "b32"},
    "int64": {"u64", "s64", "b64"},
    "float32": {"f32", "b32"},
}
_POINTER = {"u64", "b64"}


@dataclass(frozen=True)
class PtxEntry:
    """An entry point of a PTX text: its parameters' types in order, such as ``("u64", "u32")``.

    A structure that is passed by value has the type ``b8[BYTES]``. ``target`` is ``sm_75``, ``version`` the PTX
    ISA's, such as ``9.0``.
    """

    name: str
    parameters: tuple[str, ...]
    target: str
    version: str


def parse_ptx(text: str) -> dict[str, PtxEntry]:
    """Return the entry points of a PTX text by their names.

    Raises:
        KernelError: the text has no ``.version`` or ``.target``.
    """
    text = re.sub(r"//[^\n]*", "", text)
    version = re.search(r"^\s*\.version\s+(\d+\.\d+)", text, re.MULTILINE)
    target = re.search(r"^\s*\.target\s+(\w+)", text, re.MULTILINE)
    if not version or not target:
        raise KernelError("The text is not PTX: it has no .version or no .target.")
    return {
        match.group(1): PtxEntry(match.group(1), _parameters(match.group(2)), target.group(1), version.group(1))
        for match in re.finditer(r"\.entry\s+([\w$]+)\s*(?:\(([^)]*)\))?", text)
    }


def check_signature(image: CompiledKernel, variant: Variant) -> None:
    """Compare the entry point of a PTX with the declared arguments.

    Raises:
        KernelError: the entry point is missing, or takes another number or another type of arguments.
    """
    entries = parse_ptx(image.text)
    entry, arguments = entries.get(variant.kernel.name), variant.kernel.arguments
    if entry is None:
        raise KernelError(
            f"{variant.label}: the PTX has no entry point of that name, only {', '.join(entries) or 'none'}.",
            hint=f'Declare it as extern "C" __global__ void {variant.kernel.name}(...).',
        )
    if entry.target != image.target.replace("compute", "sm"):
        raise KernelError(f"{variant.label} was compiled for {image.target}, but the PTX is for {entry.target}.")
    if len(entry.parameters) != len(arguments):
        raise KernelError(
            f"{variant.label} takes {len(entry.parameters)} arguments in the source and {len(arguments)} in the "
            "declaration."
        )
    for argument, found in zip(arguments, entry.parameters, strict=True):
        dtype = variant.dtype(argument)
        if found not in (_POINTER if argument.pointer else _TYPES[dtype]):
            what = f"a pointer to {dtype}" if argument.pointer else dtype
            raise KernelError(f"{variant.label}: {argument.name!r} is declared as {what}; the PTX takes {found}.")


def _parameters(text: str | None) -> tuple[str, ...]:
    """Return the types of a parameter list."""
    found = re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)[^,\[]*(\[\d+\])?", text or "")
    return tuple(dtype + size for dtype, size in found)
