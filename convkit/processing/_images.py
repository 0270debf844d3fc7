"""Images: files and what people have in memory, as BGR arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convkit._environment import PIXELS_VARIABLE
from convkit.errors import ImageError
from convkit.processing._image_formats import unreadable
from convkit.processing._readers import read_bytes

__all__ = ["as_bgr", "read_image", "to_image", "too_large"]

TOO_LARGE = "Scale it down, or cut it into tiles."
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


def too_large(source: str) -> ImageError:
    """Return the error for an image or video of more pixels than are read."""
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
            raise too_large(source) from error
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
