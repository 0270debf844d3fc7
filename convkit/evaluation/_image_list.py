"""The images that an annotation file lists, for commands that need no annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convkit._text import read_text
from convkit.errors import InputError, listing
from convkit.evaluation._image_files import find_images

__all__ = ["listed_images"]


def listed_images(file: Path, folder: Path | None = None) -> dict[Path, dict[str, Any]]:
    """Return the entry of every image that a COCO file lists, in its order, by the image's file.

    ``folder`` is by default that of the list.

    Annotations and categories are not looked at and may be missing.

    Raises:
        InputError: it is no such file.
        ImageError: an image is missing, or several files could be meant.
    """
    try:
        document = json.loads(read_text(file))
        entries = [dict(image) for image in document["images"]]
        names = [entry["file_name"] for entry in entries]
        strange = [repr(name) for name in names if not isinstance(name, str) or not name]
        if strange or not names:
            raise ValueError(f"file_name is {listing(strange)}" if strange else "it lists no images")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.", hint="Check --coco.") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file} is not a COCO file: {error}.", hint="It needs the list images, each with file_name."
        ) from error
    files = find_images(folder or file.parent, dict(enumerate(names)))
    return {files[index]: entry for index, entry in enumerate(entries)}
