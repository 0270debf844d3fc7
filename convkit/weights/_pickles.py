"""Which classes and functions a pickle needs, found without unpickling it."""

from __future__ import annotations

import contextlib
import pickletools
import re
import zipfile
import zlib
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from convkit.weights._inert import is_inert

__all__ = ["foreign_names", "global_names"]

_LEGACY_PICKLES = 5
"""A file of `torch.save` before torch 1.6 has five pickles: magic number, version, platform, object, storage names."""

_PLAIN_MODULES = ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
_PLAIN_NAMES = {
    "collections.OrderedDict",
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
}


def foreign_names(path: Path, *, zipped: bool) -> list[str]:
    """Return the classes and functions that unpickling would call beyond those that are read as data."""
    return [name for name in _beyond_tensors(global_names(path, zipped=zipped)) if not is_inert(name)]


def global_names(path: Path, *, zipped: bool) -> list[str]:
    """Return the full names of the classes and functions that a file of `torch.save` names, each once.

    The pickle is read as a list of instructions; it is not executed. What cannot be read any more,
    because the file is cut off, is left out.
    """
    found: list[str] = []
    with contextlib.suppress(
        ValueError, LookupError, OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error
    ):
        if zipped:
            with zipfile.ZipFile(path) as archive, archive.open(_pickle_member(archive)) as stream:
                found.extend(_globals(stream))
        else:
            with path.open("rb") as file:
                for _ in range(_LEGACY_PICKLES):
                    found.extend(_globals(file))
    return list(dict.fromkeys(found))


def _pickle_member(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl")


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """Yield ``module.name`` for each global that one pickle names, reading up to its end."""
    strings: list[str] = []
    memo: dict[int, str | None] = {}
    top: str | None = None
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "MEMOIZE":
            memo[len(memo)] = top
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = top
        elif opcode.name == "GLOBAL":
            yield _today(*argument.split(" ", 1))
            top = None
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
            top = None
        else:
            value = memo.get(argument) if opcode.name in ("BINGET", "LONG_BINGET") else argument
            top = value if isinstance(value, str) else None
            if top is not None:
                strings.append(top)


def _today(module: str, name: str) -> str:
    """Return the full name in Python 3 of what a pickle of Python 2 may name."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


def _beyond_tensors(names: Iterable[str]) -> list[str]:
    """Return those of the names that tensors, their containers and NumPy scalars do not need."""
    return [
        name
        for name in names
        if name not in _PLAIN_NAMES
        and not name.startswith(_PLAIN_MODULES)
        and not re.fullmatch(r"torch\.([A-Z]\w*|b?float\d+|int\d+|device)", name)
    ]
