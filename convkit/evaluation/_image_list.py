"""The images that an annotation file lists, for commands that need no annotations."""

from __future__ import annotations

import json
from pathlib import Path

from convkit._text import read_text
from convkit.errors import InputError, listing
from convkit.evaluation._image_files import find_images

__all__ = ["listed_images"]


def listed_images(file: Path, folder: Path | None = None) -> list[Path]:
    """Return the file of every image that a COCO file lists, in its order; ``folder`` is by default that of the file.

    Annotations and categories are not looked at and may be missing.

    Raises:
        InputError: it is no such file.
        ImageError: an image is missing, or several files could be meant.
    """
    try:
        document = json.loads(read_text(file))
        names = [image["file_name"] for image in document["images"]]
        strange = [repr(name) for name in names if not isinstance(name, str) or not name]
        if strange or not names:
            raise ValueError(f"file_name is {listing(strange)}" if strange else "it lists no images")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.", hint="Check --coco.") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file} is not a COCO file: {error}.", hint="It needs the list images, each with file_name."
        ) from error
    return list(find_images(folder or file.parent, dict(enumerate(names))).values())
