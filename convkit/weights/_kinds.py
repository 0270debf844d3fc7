"""What a weights file is, judged by its bytes alone: nothing here loads or runs any of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from convkit.errors import CheckpointError, listing
from convkit.weights._pickles import foreign_names

__all__ = ["FOLDER", "LEGACY", "SAFETENSORS", "ZIP", "identify"]

ZIP = "zip"
LEGACY = "legacy"
SAFETENSORS = "safetensors"
FOLDER = "folder"

_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled magic number 0x1950a86a20f9469cfc6c, which `torch.save` wrote before torch 1.6."""

_DOWNLOAD_AGAIN = "Download the file again, and check that its size is the published one."
_CHECKPOINT = "Give the PyTorch checkpoint of the network."
_OTHER_FORMATS = (
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it first: gunzip FILE."),
    (b"7z\xbc\xaf", "is a 7-Zip archive", "Unpack it first."),
    (b"Rar!", "is a RAR archive", "Unpack it first."),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them", _CHECKPOINT),
    (b"\x89PNG", "is a PNG image", _CHECKPOINT),
    (b"\xff\xd8\xff", "is a JPEG image", _CHECKPOINT),
    (b"%PDF", "is a PDF document", _CHECKPOINT),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights themselves",
        "Fetch the weights in the repository that it comes from: git lfs pull.",
    ),
)


def identify(path: Path) -> str:
    """Return what ``path`` is: `ZIP` or `LEGACY` (the two formats of `torch.save`), `SAFETENSORS`, or `FOLDER`.

    Raises:
        CheckpointError: it cannot be read, or is anything else; the message says what.
    """
    head, size = _head(path)
    if head is None:
        return FOLDER
    if size == 0:
        raise CheckpointError(f"{path} is empty.", hint=_DOWNLOAD_AGAIN)
    # First, as the length of the header, which may be any number, can look like the magic of another format.
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return SAFETENSORS
    for magic, what, cure in _OTHER_FORMATS:
        if head.startswith(magic):
            raise CheckpointError(f"{path} {what}.", hint=cure)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(
            f"{path} is a web page, not a weights file.",
            hint="The download link led to a page: open it in a browser and save the file itself.",
        )
    if path.name.endswith(".index.json"):
        raise CheckpointError(
            f"{path} is the index of a model in several files.", hint=f"Give their folder: {path.parent}."
        )
    if head.startswith(b"PK"):
        _check_zip(path)
        return ZIP
    if head.startswith(b"\x80") and _LEGACY_MAGIC in head[:64]:
        return LEGACY
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path} is a tar archive, the format of torch 0.1 (2017), which cannot be read safely.",
            hint=resave("Open it with the torch of that time"),
        )
    if head.startswith(b"\x80"):
        names = foreign_names(path, zipped=False)
        raise CheckpointError(
            f"{path} is a plain pickle, not a file of torch.save" + (f": it needs {listing(names)}." if names else "."),
            hint=resave("If you trust it, open it where it was made") + " convkit runs no code from a weights file.",
        )
    raise CheckpointError(
        f"{path} is not a PyTorch checkpoint: it starts with {head[:8]!r}.",
        hint="Give the file that the training code saved with torch.save, for example model_best.pth.",
    )


def resave(where: str) -> str:
    """Return the hint to save the weights alone."""
    return f"{where} and save the weights alone: torch.save(model.state_dict(), NEW_FILE)."


def _head(path: Path) -> tuple[bytes | None, int]:
    """Return the first bytes of a regular file and its size; None for a folder."""
    try:
        if path.is_dir():
            return None, 0
        if not path.exists():
            close = sorted(p.name for p in path.parent.glob("*.pth"))[:5] if path.parent.is_dir() else []
            raise CheckpointError(
                f"There is no file {path}.",
                hint=f"In that folder are: {', '.join(close)}." if close else "Check the path given with --weights.",
            )
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file.", hint="Give the path of the weights file.")
        with path.open("rb") as stream:
            return stream.read(512), path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}.", hint="Check its permissions and the disk it is on."
        ) from error


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut off: its table of contents is missing.", hint=_DOWNLOAD_AGAIN
        ) from error
    files = {member.filename.split("/", 1)[-1] for member in members}
    if "constants.pkl" in files:
        raise CheckpointError(
            f"{path} is a TorchScript archive, which is a program and not a checkpoint.",
            hint="Give the checkpoint that it was made from.",
        )
    if "data.pkl" not in files:
        raise CheckpointError(
            f"{path} is a zip archive but not a PyTorch checkpoint;"
            f" it contains {listing(member.filename for member in members) or 'nothing'}.",
            hint="Unpack it and give the .pth file in it.",
        )
    # A few kilobytes of compressed data can unpack to any amount of memory.
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"{path} is not as torch.save writes it: it is compressed inside ({listing(packed)}).",
            hint=resave("If you trust it, open it with torch.load"),
        )
