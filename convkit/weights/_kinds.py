"""What a weights file is, judged by its bytes alone: nothing here loads or runs any of it."""

from __future__ import annotations

import contextlib
import pickletools
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from convkit.errors import CheckpointError

__all__ = ["LEGACY", "ZIP", "identify", "unsafe"]

ZIP = "zip"
LEGACY = "legacy"
PICKLE = "pickle"

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How the pickled magic number 0x1950a86a20f9469cfc6c looks that `torch.save` wrote before torch 1.6."""
_LEGACY_PICKLES = 5
"""Such a file holds five pickles: magic number, version, platform, the object, the names of its storages."""

_PLAIN_MODULES = ("torch._utils.", "torch._tensor.", "torch.storage.", "torch.nn.parameter.")
_PLAIN_NAMES = {
    "collections.OrderedDict",
    "_codecs.encode",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
}
_DOWNLOAD_AGAIN = "Download the file again, and check that its size is the published one."
_OTHER_FORMATS = (
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it first: gunzip FILE."),
    (b"7z\xbc\xaf", "is a 7-Zip archive", "Unpack it first."),
    (b"Rar!", "is a RAR archive", "Unpack it first."),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them", "Give the PyTorch checkpoint of the network."),
    (b"\x89PNG", "is a PNG picture", "Give the PyTorch checkpoint of the network."),
    (b"\xff\xd8\xff", "is a JPEG picture", "Give the PyTorch checkpoint of the network."),
    (b"%PDF", "is a PDF document", "Give the PyTorch checkpoint of the network."),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights themselves",
        "Fetch the weights in the repository that it comes from: git lfs pull.",
    ),
)


def identify(path: Path) -> str:
    """Return `ZIP` or `LEGACY`, the two formats of `torch.save`.

    Raises:
        CheckpointError: the file cannot be read, or is anything else; the message says what.
    """
    head, size = _head(path)
    if size == 0:
        raise CheckpointError(f"{path} is empty.", hint=_DOWNLOAD_AGAIN)
    for magic, what, cure in _OTHER_FORMATS:
        if head.startswith(magic):
            raise CheckpointError(f"{path} {what}.", hint=cure)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            f"{path} is a web page, not a weights file.",
            hint="The download link led to a page: open it in a browser and save the file itself.",
        )
    if head.startswith(b"PK"):
        _check_zip(path)
        return ZIP
    if head.startswith(b"\x80") and _LEGACY_MAGIC in head[:64]:
        return LEGACY
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path} is a tar archive, the format of torch 0.1 (2017), which cannot be read safely.",
            hint=_resave("Open it with the torch of that time"),
        )
    if head.startswith(b"\x80"):
        names = _foreign_names(path, PICKLE)
        raise CheckpointError(
            f"{path} is a plain pickle, not a file of torch.save" + (f": it needs {_join(names)}." if names else "."),
            hint=_resave("If you trust it, open it where it was made") + " convkit runs no code from a weights file.",
        )
    if _is_safetensors(head, size):
        raise CheckpointError(
            f"{path} is a safetensors file, not a file of torch.save.",
            hint="Convert it: torch.save({'epoch': 0, 'state_dict': safetensors.torch.load_file(FILE)}, NEW_FILE).",
        )
    raise CheckpointError(
        f"{path} is not a PyTorch checkpoint: it starts with {head[:8]!r}.",
        hint="Give the file that the training code saved with torch.save, for example model_best.pth.",
    )


def unsafe(path: Path, kind: str) -> CheckpointError | None:
    """Return the error for a file that needs more than tensors and plain values, or None if it does not."""
    names = _foreign_names(path, kind)
    if not names:
        return None
    return CheckpointError(
        f"{path} is refused: reading it means to run {_join(names)}.",
        hint=_resave("If you trust it, open it where it was made") + " convkit runs no code from a weights file.",
    )


def _foreign_names(path: Path, kind: str) -> list[str]:
    """Return the classes and functions that unpickling would call beyond those that tensors need.

    The pickle is read as a list of instructions; it is not executed. What cannot be read any more,
    because the file is cut off, is left out.
    """
    found: list[str] = []
    with contextlib.suppress(
        ValueError, LookupError, OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error
    ):
        if kind == ZIP:
            with zipfile.ZipFile(path) as archive, archive.open(_pickle_member(archive)) as stream:
                found.extend(_globals(stream))
        else:
            with path.open("rb") as file:
                for _ in range(_LEGACY_PICKLES if kind == LEGACY else 1):
                    found.extend(_globals(file))
    return _beyond_tensors(dict.fromkeys(found))


def _head(path: Path) -> tuple[bytes, int]:
    try:
        if not path.exists():
            close = sorted(p.name for p in path.parent.glob("*.pth"))[:5] if path.parent.is_dir() else []
            raise CheckpointError(
                f"There is no file {path}.",
                hint=f"In that folder are: {', '.join(close)}." if close else "Check the path given with --weights.",
            )
        if path.is_dir():
            raise CheckpointError(
                f"{path} is a folder.", hint="Give the weights file in it, for example model_best.pth."
            )
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file.", hint="Give the path of the weights file.")
        with path.open("rb") as stream:
            return stream.read(512), path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions and the disk it lies on."
        ) from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut off: its table of contents is missing.", hint=_DOWNLOAD_AGAIN
        ) from error
    files = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in files:
        raise CheckpointError(
            f"{path} is a TorchScript archive, which is a program and not a checkpoint.",
            hint="Give the checkpoint that it was made from.",
        )
    if "data.pkl" not in files:
        raise CheckpointError(
            f"{path} is a zip archive but not a PyTorch checkpoint; it holds {_join(names) or 'nothing'}.",
            hint="Unpack it and give the .pth file in it.",
        )


def _pickle_member(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl")


def _is_safetensors(head: bytes, size: int) -> bool:
    return size > 9 and 2 <= int.from_bytes(head[:8], "little") <= size - 8 and head[8:9] == b"{"


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
            yield argument.replace(" ", ".")
            top = None
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
            top = None
        else:
            value = memo.get(argument) if opcode.name in ("BINGET", "LONG_BINGET") else argument
            top = value if isinstance(value, str) else None
            if top is not None:
                strings.append(top)


def _beyond_tensors(names: Iterable[str]) -> list[str]:
    """Return those of the names that tensors, their containers and NumPy scalars do not need."""
    return [
        name
        for name in names
        if name not in _PLAIN_NAMES
        and not name.startswith(_PLAIN_MODULES)
        and not re.fullmatch(r"torch\.([A-Z]\w*|b?float\d+|int\d+|device)", name)
    ]


def _resave(where: str) -> str:
    return (
        f"{where} and save the weights alone: torch.save({{'epoch': 0, 'state_dict': model.state_dict()}}, NEW_FILE)."
    )


def _join(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
