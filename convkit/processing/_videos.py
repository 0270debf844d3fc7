"""The images of videos, cameras and streams, one at a time."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from convkit._environment import MOST_PIXELS
from convkit.errors import ImageError
from convkit.processing._animation import gif_pixels
from convkit.processing._images import as_bgr, too_large
from convkit.processing._readers import Note, check_file, read_bytes

__all__ = ["VIDEO_SUFFIXES", "Stream", "video_images"]

VIDEO_SUFFIXES = {
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv",
    ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m",
}  # fmt: skip
CUT_OFF = 0.9
"""A video of which less than this part of the declared images can be read is cut off; some declare an estimate."""
MOST_ANIMATED = 1 << 28
"""Pixels of all images of a GIF together, which OpenCV decodes at once: 0.8 gigabytes."""
FASTEST = 1000.0
"""Images a second of the fastest video whose rate is believed; some containers give their clock's instead."""

Images = Iterator[tuple[np.ndarray, float]]
"""Images (uint8, H x W x 3, BGR) with the rate of the video in images a second, 0 where it is not known."""


@dataclass(frozen=True)
class Stream:
    """A camera or an address: what OpenCV opens, how it is shown, and the name of its results."""

    address: int | str
    shown: str
    name: str

    @classmethod
    def of(cls, source: Path | str) -> Stream | None:
        """Return the stream that a source is, or None where it is a path; a password is not shown."""
        text = str(source)
        if re.fullmatch("[0-9]{1,3}", text) and not os.path.lexists(text):
            return cls(int(text), f"camera {int(text)}", f"camera-{int(text)}")
        if isinstance(source, Path) or not re.match("[A-Za-z][A-Za-z0-9+.-]*://", text):
            return None
        try:
            parts = urlsplit(text)
            host = parts.netloc.rpartition("@")[2]
        except ValueError as error:
            raise ImageError(f"{text!r} is no address: {error}.", hint="Give it as rtsp://HOST/PATH.") from error
        shown = text.replace(parts.netloc, f"***@{host}", 1) if "@" in parts.netloc else text
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{host}{parts.path}").strip("-.")
        return cls(text, shown, name[-100:] or "stream")

    def images(self, note: Note) -> Images:
        """Yield images until the stream ends; ``note`` is called when it does.

        Raises:
            ImageError: it cannot be opened, or gives no image.
        """
        count = 0
        for count, found in enumerate(_read(self.address, self.shown), 1):  # noqa: B007 - counts
            yield found
        if not count:
            camera = isinstance(self.address, int)
            raise ImageError(
                f"There is no {self.shown}." if camera else f"{self.shown} gives no image that OpenCV can read.",
                hint="There is no file of that name either; cameras are numbered from 0."
                if camera
                else "Check the address, its user and password, and that this machine reaches it.",
            )
        note(f"{self.shown} ended after {count} images.")


def video_images(path: Path, note: Note) -> Images:
    """Yield the images of a video file or a GIF; ``note`` is called if a few cannot be read.

    Raises:
        ImageError: it is none, or much of it cannot be read, which is known after its last image.
    """
    if path.suffix.lower() == ".gif":
        yield from _animation(path)
        return
    check_file(path, "video", ImageError)
    declared: list[int] = []
    count = 0
    for count, found in enumerate(_read(str(path), str(path), declared), 1):  # noqa: B007 - counts
        yield found
    if not count:
        raise ImageError(
            f"{path} is not a video that OpenCV can read.",
            hint="If it is whole, convert it, for example to MP4 with H.264; an MP4 that is cut off cannot be read.",
        )
    if count < CUT_OFF * declared[0]:
        raise ImageError(
            f"{path} is cut off or damaged: it declares {declared[0]} frames, {count} could be read.",
            hint="The frames that could be read were processed. Fetch the video again, or convert it.",
        )
    if count < declared[0]:
        note(
            f"{path} declares {declared[0]} frames, {count} could be read; it may be cut off or damaged, and frames"
            " behind a damaged one have lower numbers than they should."
        )


def _read(address: int | str, shown: str, declared: list[int] | None = None) -> Images:
    """Yield what OpenCV reads of a video or stream; ``declared`` gets the number of images that it declares.

    That is an estimate in some containers, 0 or less where it is not known. OpenCV goes on behind an image that it
    cannot decode, where the container says where the next one begins.

    Raises:
        ImageError: its images have too many pixels, or OpenCV fails at one.
    """
    capture: Any = cv2.VideoCapture(address)
    try:
        if capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT) > MOST_PIXELS:
            raise too_large(shown)
        if declared is not None:
            declared.append(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        rate = rate if math.isfinite(rate) and 0 < rate <= FASTEST else 0.0
        count = 0
        while True:
            try:
                more, image = capture.read()
            except cv2.error as error:
                raise ImageError(
                    f"{shown} is damaged behind frame {count - 1}: {str(error).strip().splitlines()[0]}",
                    hint="The frames before it were processed. Fetch the video again, or convert it.",
                ) from error
            if not more:
                return
            yield as_bgr(image, f"frame {count} of {shown}"), rate
            count += 1
    finally:
        capture.release()


def _animation(path: Path) -> Images:
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
        yield as_bgr(image, str(path)), 0.0
