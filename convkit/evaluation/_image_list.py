"""The images that an annotation file lists, for commands that need no annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convkit.errors import InputError, listing
from convkit.evaluation._coco_schema import read_images
from convkit.evaluation._image_files import find_images

__all__ = ["listed_images"]


def listed_images(file: Path, folder: Path | None = None, *, complete: bool = True) -> dict[Path, dict[str, Any]]:
    """Return the entry of every image that a COCO file lists, in its order, by the image's file.

    ``folder`` is by default that of the list. A missing image has the path where it should be, if the list need not be
    ``complete``.

    Annotations and categories are not looked at and may be missing.

    Raises:
        InputError: it is no such file.
        ImageError: an image is missing, or several files could be meant.
    """
    try:
        entries = read_images(file)
        names: list[Any] = [entry.get("file_name") for entry in entries]
        strange = [repr(name) for name in names if not isinstance(name, str) or not name]
        if strange or not names:
            raise ValueError(f"file_name is {listing(strange)}" if strange else "it lists no images")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.", hint="Check --coco.") from error
    except ValueError as error:
        raise InputError(
            f"{file} is not a COCO file: {error}.", hint="It needs the list images, each with file_name."
        ) from error
    place = folder or file.parent
    files = find_images(place, dict(enumerate(names)), complete=complete)
    return {files.get(index, place / names[index]): entry for index, entry in enumerate(entries)}
