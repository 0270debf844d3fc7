"""Images in and out: files, videos and what people have in memory, as BGR arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convkit._environment import MOST_PIXELS, PIXELS_VARIABLE
from convkit.errors import ImageError
from convkit.processing._animation import gif_pixels
from convkit.processing._image_formats import several, unreadable
from convkit.processing._readers import Bad, Frame, Note, Reader, check_file, ignore, read_bytes

__all__ = ["ImageReader", "as_bgr", "read_image", "to_image"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = {
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
TOO_LARGE = "Scale it down, or cut it into tiles."
CUT_OFF = 0.9
"""A video of which less than this part of the declared frames can be read is cut off; some declare an estimate."""
MOST_ANIMATED = 1 << 28
"""Pixels of all images of a GIF together, which OpenCV decodes at once: 0.8 gigabytes."""
MAX_BYTES = 2**31 - 1
"""Size of the largest BGR image: OpenCV's warps compute offsets in 32 bits and crash beyond."""


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
        image = _to_8_bit(image)
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


def _to_8_bit(image: np.ndarray) -> np.ndarray:
    """Return 16-bit values divided by 257, rounded: some rows at a time, as the sums need 32 bits."""
    result = np.empty(image.shape, np.uint8)
    rows = max(1, (1 << 20) // max(1, image[0].size))
    for start in range(0, len(image), rows):
        part = image[start : start + rows].astype(np.uint32)
        result[start : start + rows] = (part + 128) // 257
    return result


def _too_large(source: str) -> ImageError:
    text = os.environ.get(PIXELS_VARIABLE, "")
    limit = int(text) if text.isdigit() else 0
    what = f"than the {limit:,} that are read" if limit else "than OpenCV reads"
    return ImageError(
        f"{source} is too large: it has more pixels {what}.",
        hint=f"{TOO_LARGE} {PIXELS_VARIABLE}=NUMBER in the environment reads larger ones.",
    )


def read_image(path: Path | str) -> np.ndarray:
    """Read an image file as uint8, H x W x 3, BGR.

    Raises:
        ImageError: the file is missing, empty, no image, or larger than OpenCV can process.
    """
    path = Path(path)
    return decode_image(np.frombuffer(read_bytes(path, "image", ImageError), np.uint8), str(path))


def decode_image(data: np.ndarray, source: str) -> np.ndarray:
    """Return the image that the bytes of a file (uint8 [N]) contain, as `read_image` does."""
    if data.size == 0:
        raise ImageError(f"{source} is empty (0 bytes).", hint="The download or copy may have failed; fetch it again.")
    if problem := unreadable(data):
        raise ImageError(f"{source} {problem[0]}.", hint=problem[1])
    try:
        # COLOR drops alpha and, unlike UNCHANGED, turns a photo as its EXIF orientation says.
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise _too_large(source) from error
        image = None
    if image is None:
        raise ImageError(
            f"{source} is not an image that OpenCV can read.",
            hint="It may be truncated or of another format; convert it to PNG or JPEG.",
        )
    return as_bgr(image, source)


def to_image(value: Any) -> np.ndarray:
    """Return what people have as an image in the form of `as_bgr`.

    A path or the bytes of an image file are decoded. A PIL image is turned as its EXIF orientation says and its
    colours are brought into BGR order. A NumPy array, a torch tensor or any other object with DLPack is taken as pixels
    [H, W], [H, W, 1], [H, W, 3] in BGR order or [H, W, 4].

    Raises:
        ImageError: it is none of these.
    """
    if isinstance(value, str | Path):
        return read_image(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(np.frombuffer(value, np.uint8), "the given bytes")
    if isinstance(value, np.ndarray):
        return as_bgr(value)
    if type(value).__module__.partition(".")[0] == "PIL":
        from PIL import ImageOps

        return as_bgr(np.asarray(ImageOps.exif_transpose(value).convert("RGB"))[:, :, ::-1])
    if hasattr(value, "__dlpack__"):
        try:
            pixels = np.from_dlpack(value.detach() if hasattr(value, "detach") else value)
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ImageError(
                f"A {type(value).__name__} cannot be read as an image: {str(error).splitlines()[0]}",
                hint="Move it to the CPU first.",
            ) from error
        if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
            raise ImageError(
                f"A {type(value).__name__} of shape {pixels.shape} has its channels first.",
                hint="Give pixels as H x W x 3 in BGR order, for example with permute(1, 2, 0).",
            )
        return as_bgr(pixels)
    raise ImageError(
        f"{'None' if value is None else 'A ' + type(value).__name__} is no image.",
        hint="Give a path, the bytes of a file, a NumPy array (H x W x 3, BGR), a PIL image or a CPU tensor."
        + (" cv2.imread returns None for a file that it cannot read." if value is None else ""),
    )


class ImageReader(Reader):
    """Images as uint8 [H, W, 3] in BGR order; `frames` also takes videos."""

    noun = "image"
    suffixes = IMAGE_SUFFIXES

    def read(self, path: Path) -> np.ndarray:
        """Return the pixels of an image file."""
        return read_image(path)

    def write(self, raw: np.ndarray, path: Path) -> Path:
        """Write a PNG file."""
        file = path.with_suffix(".png")
        file.write_bytes(cv2.imencode(".png", raw)[1].tobytes())
        return file

    def accept(self, value: Any) -> np.ndarray:
        """Return the pixels of what people have as an image; see `to_image`."""
        return to_image(value)

    def is_single(self, value: Any) -> bool:
        """Return whether a value is one image: no list, and no array of four axes."""
        return not isinstance(value, list | tuple) and getattr(value, "ndim", 3) != 4

    def frames(self, paths: Sequence[Path], *, note: Note = ignore, bad: Bad | None = None) -> Iterator[Frame]:
        """Yield every image of the given files, folders and videos, one at a time.

        ``note`` is called with a sentence about each video of which fewer frames can be read than it declares, and each
        file of which only the first image is taken; ``bad`` as in `Reader.frames`.

        Raises:
            ImageError: a path is none of these or cannot be read, or a video ended early, after its last frame.
        """
        for file in self.files(paths):
            if file.suffix.lower() in VIDEO_SUFFIXES:
                with self.bad_file(file, bad):
                    for index, image in enumerate(_video(file, note)):
                        yield Frame(f"{file}#{index}", self.result_name(file, index), image)
            else:
                with self.bad_file(file, bad):
                    yield Frame(str(file), self.result_name(file), read_image(file))
                    if several(file):
                        note(f"{file} contains several images; the first was taken.")

    def result_name(self, file: Path, index: int = 0) -> str:
        """Return the file name for the results of an image file, or of the frame ``index`` of a video."""
        return f"{file.stem}_{index:06d}.jpg" if file.suffix.lower() in VIDEO_SUFFIXES else file.name


def _video(path: Path, note: Note) -> Iterator[np.ndarray]:
    if path.suffix.lower() == ".gif":
        yield from _animation(path)
        return
    check_file(path, "video", ImageError)
    capture = cv2.VideoCapture(str(path))
    if capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) > MOST_PIXELS:
        capture.release()
        raise _too_large(str(path))
    declared = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # an estimate in some containers, 0 or less where unknown
    count = 0
    try:
        while True:
            more, image = capture.read()
            if not more:
                break
            yield as_bgr(image, str(path))
            count += 1
    finally:
        capture.release()
    if not count:
        raise ImageError(
            f"{path} is not a video that OpenCV can read.",
            hint="If it is whole, convert it, for example to MP4 with H.264; an MP4 that is cut off cannot be read.",
        )
    if count < CUT_OFF * declared:
        raise ImageError(
            f"{path} is cut off or damaged: it declares {declared} frames, {count} could be read.",
            hint="The frames that could be read were processed. Fetch the video again, or convert it.",
        )
    if count < declared:
        note(f"{path} declares {declared} frames, {count} could be read; it may be cut off or damaged.")


def _animation(path: Path) -> Iterator[np.ndarray]:
    """Yield the images of a GIF, which OpenCV reads as an image and not as a video."""
    content = read_bytes(path, "image", ImageError)
    if gif_pixels(content) > MOST_ANIMATED:
        raise ImageError(
            f"{path} is too large: its images have {gif_pixels(content):,} pixels together.",
            hint="Convert it to a video, for example to MP4 with H.264, of which one image at a time is read.",
        )
    data = np.frombuffer(content, np.uint8)
    try:
        good, images = cv2.imdecodemulti(data, cv2.IMREAD_COLOR) if data.size else (False, ())
    except cv2.error:
        good, images = False, ()
    if not good:
        raise ImageError(
            f"{path} is not a GIF that OpenCV can read.", hint="It may be truncated; OpenCV reads GIFs from 4.11 on."
        )
    for image in images:
        yield as_bgr(image, str(path))
