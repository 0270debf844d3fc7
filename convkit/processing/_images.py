"""Images in and out: files, folders and videos as BGR arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from convkit.errors import ImageError

__all__ = ["Frame", "as_bgr", "find_images", "frame_name", "frames", "input_files", "read_image"]

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
VIDEO_SUFFIXES = {
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm",
    ".wmv",
}  # fmt: skip
TOO_LARGE = "Scale it down, or cut it into tiles."
MAX_BYTES = 2**31 - 1
"""Size of the largest BGR image: OpenCV's warps compute offsets in 32 bits and crash beyond."""


@dataclass(frozen=True)
class Frame:
    """One image to process: where it comes from, a name for its results, and its BGR pixels."""

    source: str
    name: str
    image: np.ndarray


def as_bgr(image: np.ndarray, source: str = "image") -> np.ndarray:
    """Return ``image`` as uint8, H x W x 3, BGR.

    Greyscale becomes three equal channels, an alpha channel is dropped, 16-bit values are divided
    by 257 with rounding.

    Raises:
        ImageError: no pixels, more than OpenCV can process, or a dtype or channel count that is no image.
    """
    if image.ndim not in (2, 3) or image.size == 0:
        raise ImageError(
            f"{source} has no pixels: its shape is {image.shape}.", hint="Give an array of shape H x W x 3."
        )
    if 3 * image.shape[0] * image.shape[1] > MAX_BYTES:
        raise ImageError(
            f"{source} is too large: {image.shape[1]} x {image.shape[0]} pixels;"
            f" OpenCV processes at most {MAX_BYTES // 3:,} pixels.",
            hint=TOO_LARGE,
        )
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageError(f"{source} holds {image.dtype} values.", hint="Give uint8 (0 to 255) or uint16 pixels.")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    if channels == 4:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR))
    if channels != 3:
        raise ImageError(f"{source} has {channels} channels.", hint="Give 1 (grey), 3 (BGR) or 4 (BGRA) channels.")
    return np.ascontiguousarray(image)


def read_image(path: Path | str) -> np.ndarray:
    """Read an image file as uint8, H x W x 3, BGR.

    Raises:
        ImageError: the file is missing, empty, no image, or larger than OpenCV can process.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"There is no image {path}.", hint="Check the path.")
    data = np.fromfile(path, np.uint8)
    if data.size == 0:
        raise ImageError(f"{path} is empty (0 bytes).", hint="The download or copy may have failed; fetch it again.")
    try:
        # COLOR drops alpha and, unlike UNCHANGED, turns a photo as its EXIF orientation says.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise ImageError(f"{path} is too large: it has more pixels than OpenCV reads.", hint=TOO_LARGE) from error
        image = None
    if image is None:
        raise ImageError(
            f"{path} is not an image that OpenCV can read.",
            hint="It may be truncated or of another format; convert it to PNG or JPEG.",
        )
    return as_bgr(image, str(path))


def find_images(folder: Path) -> list[Path]:
    """Return the image files directly in ``folder``, sorted by name, without the hidden ones.

    Names that begin with a dot are hidden; macOS keeps attributes of ``a.jpg`` in ``._a.jpg``, which is no image.

    Raises:
        ImageError: there is none.
    """
    if not folder.is_dir():
        raise ImageError(f"There is no folder {folder}.", hint="Give a folder that holds images.")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ImageError(
            f"{folder} holds no images.", hint=f"Known file types are {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return found


def frames(paths: Sequence[Path], *, note: Callable[[str], object] = lambda text: None) -> Iterator[Frame]:
    """Yield every image of the given files, folders and videos, one at a time.

    ``note`` is called with a sentence about each video of which fewer frames can be read than it declares.

    Raises:
        ImageError: a path is none of these or cannot be read.
    """
    for file in input_files(paths):
        if file.suffix.lower() in VIDEO_SUFFIXES:
            yield from _video(file, note)
        else:
            yield Frame(str(file), frame_name(file, 0), read_image(file))


def input_files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the image and video files that `frames` reads, in its order; folders are listed, nothing is opened.

    Raises:
        ImageError: a folder has no images.
    """
    for path in paths:
        yield from find_images(path) if path.is_dir() else [path]


def frame_name(file: Path, index: int) -> str:
    """Return the name of the results of an image file, or of the frame ``index`` of a video."""
    return f"{file.stem}_{index:06d}.jpg" if file.suffix.lower() in VIDEO_SUFFIXES else file.name


def _video(path: Path, note: Callable[[str], object]) -> Iterator[Frame]:
    if not path.is_file():
        raise ImageError(f"There is no video {path}.", hint="Check the path.")
    capture = cv2.VideoCapture(str(path))
    declared = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # an estimate in some containers, 0 or less where unknown
    try:
        index = 0
        while True:
            more, image = capture.read()
            if not more:
                break
            yield Frame(f"{path}#{index}", frame_name(path, index), as_bgr(image, str(path)))
            index += 1
        if index == 0:
            raise ImageError(
                f"{path} is not a video that OpenCV can read.", hint="Convert it, for example to MP4 with H.264."
            )
        if index < declared:
            note(f"{path} declares {declared} frames, {index} could be read; it may be cut off or damaged.")
    finally:
        capture.release()
