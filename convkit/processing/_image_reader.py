"""The reader of models that take images: files, folders, videos, cameras and streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from convkit.processing._image_formats import several
from convkit.processing._images import read_image, to_image
from convkit.processing._readers import Bad, Frame, Note, Reader, ignore
from convkit.processing._videos import VIDEO_SUFFIXES, Stream, video_images

__all__ = ["ImageReader"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class ImageReader(Reader):
    """Images as uint8 [H, W, 3] in BGR order; `frames` also takes videos, cameras and streams."""

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

    def files(self, paths: Sequence[Path | str]) -> Iterator[Path]:
        """Yield the files among what `frames` reads, as `Reader.files`; cameras and streams are left out."""
        return super().files([path for path in paths if Stream.of(path) is None])

    def frames(self, paths: Sequence[Path | str], *, note: Note = ignore, bad: Bad | None = None) -> Iterator[Frame]:
        """Yield every image of the given files, folders, patterns, videos, cameras and streams, one at a time.

        The number of a camera, such as ``"0"``, is one where no file has that name; a text with ``://`` is the address
        of a stream. ``note`` is called with a sentence about each video of which fewer images can be read than it
        declares, and each file of which only the first image is taken; ``bad`` as in `Reader.frames`.

        Raises:
            ImageError: a path is none of these or cannot be read, or a video ended early, after its last image.
        """
        files: list[Path | str] = []
        for path in paths:
            if (stream := Stream.of(path)) is None:
                files.append(path)
                continue
            yield from self._of_files(files, note, bad)
            files.clear()
            with self.bad_file(Path(stream.name), bad):
                for index, (image, rate) in enumerate(stream.images(note)):
                    yield Frame(f"{stream.shown}#{index}", f"{stream.name}_{index:06d}.jpg", image, rate)
        yield from self._of_files(files, note, bad)

    def _of_files(self, paths: Sequence[Path | str], note: Note, bad: Bad | None) -> Iterator[Frame]:
        for file in super().files(paths):
            with self.bad_file(file, bad):
                if file.suffix.lower() in VIDEO_SUFFIXES:
                    for index, (image, rate) in enumerate(video_images(file, note)):
                        yield Frame(f"{file}#{index}", self.result_name(file, index), image, rate)
                else:
                    yield Frame(str(file), self.result_name(file), read_image(file))
                    if several(file):
                        note(f"{file} contains several images; the first was taken.")

    def result_name(self, file: Path, index: int = 0) -> str:
        """Return the file name for the results of an image file, or of the image ``index`` of a video."""
        return f"{file.stem}_{index:06d}.jpg" if file.suffix.lower() in VIDEO_SUFFIXES else file.name
