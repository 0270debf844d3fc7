"""The files of the images that annotations name, found before any of them is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath

import numpy as np

from convkit.errors import ImageError, SettingError, listing
from convkit.processing import read_image

__all__ = ["check_size", "find_images"]


def find_images(folder: Path, names: Mapping[int, str], *, complete: bool = True) -> dict[int, Path]:
    """Return the file of every image by its id.

    Where ``folder`` lacks a name, the name may have the separators of Windows, or its upper and lower case may differ,
    or the folders in it may be others than those on this machine, as long as that leaves one file. Missing images are
    left out where they need not be ``complete``.

    Raises:
        ImageError: a file is missing, or several could be meant.
    """
    found = {image_id: folder / name for image_id, name in names.items() if _there(folder / name)}
    lost = {image_id: name for image_id, name in names.items() if image_id not in found}
    if not lost:
        return found
    by_name: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in folder.rglob("*"):
            by_name.setdefault(path.name.casefold(), []).append(path)
    for image_id, name in lost.items():
        parts = PureWindowsPath(name).parts  # which takes both kinds of separators
        files = by_name.get(parts[-1].casefold(), []) if parts else []
        ending = "/" + "/".join(parts).casefold()
        tails = [path for path in files if path.as_posix().casefold().endswith(ending)] or files
        if len(tails) == 1 and tails[0].is_file():
            found[image_id] = tails[0]
        elif tails:
            raise ImageError(
                f"The image {folder / name} is missing, and several could be meant:"
                f" {listing(map(str, sorted(tails)))}.",
                hint="Check --images; names come from the annotations.",
            )
    missing = [str(folder / name) for image_id, name in lost.items() if image_id not in found]
    if missing and complete:
        more = f", and {len(missing) - 1} others too" if len(missing) > 1 else ""
        raise ImageError(
            f"The image {missing[0]} is missing{more}.", hint="Check --images; names come from the annotations."
        )
    taken: dict[Path, int] = {}
    for image_id, file in found.items():
        if file in taken:
            raise ImageError(
                f"The images {names[taken[file]]} and {names[image_id]} are the same file, {file}.",
                hint="Check --images; names come from the annotations.",
            )
        taken[file] = image_id
    return found


def check_size(file: Path, size: tuple[int, int] | None) -> None:
    """Check that an image is as high and wide as the annotations declare, or their boxes are those of another image.

    A file that cannot be read passes: what runs it says why.

    Raises:
        SettingError: it is not; it may have been scaled, or it is turned by its EXIF orientation and the boxes are not.
    """
    import cv2

    if size is None:
        return
    try:
        data = np.fromfile(file, np.uint8)
    except OSError:
        return
    small = cv2.imdecode(data, cv2.IMREAD_REDUCED_GRAYSCALE_8) if data.size else None
    if small is None or all(abs(8 * have - want) < 16 for have, want in zip(small.shape, size, strict=True)):
        return
    shape = read_image(file).shape[:2]
    turned = " It is turned by its EXIF orientation, or should be." if shape == size[::-1] else ""
    raise SettingError(
        f"{file} is {shape[1]} x {shape[0]} pixels; the annotations say {size[1]} x {size[0]}.{turned}",
        hint="Boxes are in pixels of the image: evaluate on the images that were annotated.",
    )


def _there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # a name that is too long
        return False
