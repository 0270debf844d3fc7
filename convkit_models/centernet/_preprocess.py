"""Images into input tensors, bit for bit as CenterNet's own detectors make them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from convkit import Prepared, Preprocess
from convkit.cuda import ArrayView, Variant
from convkit.errors import ImageError
from convkit.processing import Placement
from convkit.processing.image_warp import ImageWarp, SourceImage
from convkit_models.centernet._augment import Augmentation, AugmentedAffine
from convkit_models.centernet._calibration import CalibratedImage, CalibratedReader
from convkit_models.centernet._geometry import affine
from convkit_models.centernet._names import INPUT

__all__ = ["Affine", "AffineOnDevice", "CalibratedAffine"]


class Affine(Preprocess):
    """Warp an image to the input size, normalise it, and lay it out as planes.

    The specification has ``resize``:

    * ``fix_res``: the longer side of the image takes the whole width of ``height`` x ``width``, the
      image sits in the middle, and what is left is black;
    * ``keep_res``: the image keeps its scale and sits in the middle of an input whose sides are the
      next multiples of ``pad`` + 1 *above* its own (512 gives 544 with the usual 31). A ``height``
      or ``width`` that is not None takes the place of that size.

    ``side`` "width" lets the image's width take the whole width of the input, whichever side is longer; with ``dtype``
    "float32" values are normalised in float32: the task ddd does so.

    Pixels outside the image are 0 *before* ``(value / 255 - mean) / std``, channel by channel in
    the order of the image, which is BGR. The official code computes that in float64, with float32
    constants, and rounds to float32. There are only 256 pixel values, so the same numbers come from
    a table.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.keep_res = spec["resize"] == "keep_res"
        self.height, self.width, self.pad = spec["height"], spec["width"], spec["pad"]
        mean, std = np.asarray(spec["mean"], np.float32), np.asarray(spec["std"], np.float32)
        values = np.arange(256, dtype=spec.get("dtype", "uint8"))[:, None] / 255.0
        self.whole_width = spec.get("side") == "width"
        self.table = np.ascontiguousarray(((values - mean) / std).astype(np.float32).T)

    def __call__(self, image: np.ndarray) -> Prepared:
        """Return the tensor (float32, 3 x H x W) of an image (uint8, H x W x 3, BGR).

        ``meta`` holds what maps results back: ``center`` (x, y) and ``scale``, the square of the
        image that takes the whole width, and ``input``, the (height, width) of the tensor.

        Raises:
            ImageError: the array is not such an image.
        """
        return self.prepared(image)

    def prepared(self, image: np.ndarray, side: int | None = None) -> Prepared:
        """Return the tensor and ``meta`` of an image; ``side`` takes the place of its longer side where that counts."""
        _check(image)
        rows, columns = image.shape[:2]
        matrix, meta = self.place(rows, columns, side)
        height, width = meta["input"]
        try:
            warped = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        except cv2.error as error:  # OpenCV 4 takes sides of up to 32766 pixels
            raise ImageError(
                f"OpenCV cannot warp an image of {columns} x {rows} pixels.", hint="Scale it down first."
            ) from error
        tensor = self._normalise(warped, *_touched_rows(matrix, rows, height))
        return Prepared({INPUT: tensor}, meta)

    def augmented(self, settings: Mapping[str, str]) -> Preprocess | None:
        """Return the same preprocess with mirrored and scaled views; None for boxes in space, which have none.

        Raises:
            SettingError: a setting is unknown, or has a value that cannot be obeyed.
        """
        return None if self.whole_width else AugmentedAffine(self, Augmentation.of(settings))

    def place(self, rows: int, columns: int, side: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the float64 matrix from an image of that size to the input, and ``meta``."""
        height, width = self._size(rows, columns)
        centre = (columns // 2, rows // 2) if self.keep_res else (columns / 2, rows / 2)
        scale = float(width if self.keep_res else columns if self.whole_width else side or max(rows, columns))
        meta = {"center": [float(centre[0]), float(centre[1])], "scale": scale, "input": [height, width]}
        return affine(centre, scale, (width, height)), meta

    def on_device(self) -> AffineOnDevice:
        """Return the same preprocess on the GPU, a `convkit.DevicePreprocess`."""
        return AffineOnDevice(self)

    def _size(self, rows: int, columns: int) -> tuple[int, int]:
        if not self.keep_res:
            return self.height, self.width
        return self.height or (rows | self.pad) + 1, self.width or (columns | self.pad) + 1

    def _normalise(self, warped: np.ndarray, top: int, bottom: int) -> np.ndarray:
        """Return the planes of a warped image that is black but for the rows ``top`` to ``bottom``."""
        height, width, channels = warped.shape
        tensor = np.empty((channels, height, width), np.float32)
        planes = cv2.split(warped[top:bottom], list(np.empty((channels, bottom - top, width), np.uint8)))
        for plane, table, target in zip(planes, self.table, tensor, strict=True):
            cv2.LUT(plane, table, dst=target[top:bottom])
            target[:top].fill(table[0])
            target[bottom:].fill(table[0])
        return tensor


class CalibratedAffine(Affine):
    """The same for images that may have a matrix of their camera, which comes into ``meta``."""

    reader = CalibratedReader()

    def __call__(self, image: np.ndarray) -> Prepared:
        """Return the tensor of an image; ``meta`` has its ``calibration`` where it comes with one."""
        prepared = super().__call__(image)
        return Prepared(prepared.tensors, _calibrated(prepared.meta, image))

    def on_device(self) -> AffineOnDevice:
        """Return the same preprocess on the GPU."""
        return _CalibratedOnDevice(self)


class AffineOnDevice:
    """The preprocess on the GPU. Float32 tensors are equal to those of the host; other dtypes are rounded from them."""

    def __init__(self, host: Affine) -> None:
        self._host = host
        self._warp = ImageWarp(host.table)
        self.record = self._warp.record
        self._placed = lru_cache(maxsize=256)(self._place)

    def place(self, raw: np.ndarray) -> Placement:
        """Return the placement of an image (uint8, H x W x 3, BGR).

        Raises:
            ImageError: the array is not such an image.
            KernelArgumentError: the image is too large.
        """
        _check(raw)
        image, meta = self._placed(*raw.shape[:2])
        return Placement({INPUT: (3, *meta["input"])}, meta, raw, image)

    def place_on_device(self, array: ArrayView) -> Placement:
        """Return the placement of an image on the GPU, whose rows may be apart, as those of a part of an image are.

        Raises:
            ImageError: the array is not such an image, or its pixels are apart or its channels come first.
            KernelArgumentError: the image is too large.
        """
        _check(array)
        (rows, columns, _), (pitch, pixel, channel) = array.shape, array.strides
        pitch = pitch if rows > 1 else 3 * columns
        if channel != 1 or (columns > 1 and pixel != 3) or pitch < 3 * columns:
            raise ImageError(
                f"An image on the GPU has the strides {list(array.strides)}: its pixels are not one behind the other.",
                hint="Give H x W x 3 of a dense tensor: .contiguous() after permute(1, 2, 0).",
            )
        image, meta = self._placed(rows, columns, pitch)
        return Placement({INPUT: (3, *meta["input"])}, meta, None, image)

    def row(self, placement: Placement, offset: int) -> tuple[Any, ...]:
        """Return the record of an image whose dense rows start ``offset`` bytes behind the start of the payloads."""
        return self._warp.row(placement.detail, offset)

    def launch(self, records: Any, payloads: Any, tensors: Mapping[str, Any], stream: int) -> None:
        """Fill the input tensor [B, 3, H, W] on the stream from the images of ``records`` in ``payloads``.

        Raises:
            KernelArgumentError: an argument has the wrong dtype, device, shape, layout or alignment.
        """
        self._warp.launch(records, payloads, tensors[INPUT], stream)

    def kernels(self) -> Sequence[Variant]:
        """Return the variants that ``launch`` chooses from by the tensor's dtype and layout."""
        return self._warp.kernels()

    def _place(self, height: int, width: int, pitch: int | None = None) -> tuple[SourceImage, dict[str, Any]]:
        """Return image and meta for a size; the matrix maps pixels of the tensor to the image."""
        matrix, meta = self._host.place(height, width)
        return self._warp.image(height, width, cv2.invertAffineTransform(matrix), pitch=pitch), meta


class _CalibratedOnDevice(AffineOnDevice):
    """The preprocess on the GPU for images that may have a matrix."""

    def place(self, raw: np.ndarray) -> Placement:
        """Return the placement of an image, with its ``calibration`` in ``meta`` where it comes with one."""
        placement = super().place(raw)
        return replace(placement, meta=_calibrated(placement.meta, raw))


def _calibrated(meta: Mapping[str, Any], image: np.ndarray) -> Mapping[str, Any]:
    found = image.calibration if isinstance(image, CalibratedImage) else ()
    return {**meta, "calibration": list(found)} if found else meta


def _touched_rows(matrix: np.ndarray, rows: int, height: int) -> tuple[int, int]:
    """Return the range of output rows that the image's rows can reach, with a row to spare at both ends.

    Bilinear sampling reaches one row beyond the image; everything outside the range is black.
    """
    ratio, shift = matrix[1, 1], matrix[1, 2]
    top = min(max(0, math.floor(shift - ratio) - 1), height - 1)
    return top, max(top + 1, min(height, math.ceil(shift + ratio * rows) + 2))


def _check(image: np.ndarray | ArrayView) -> None:
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ImageError(
            f"An image of shape {shape} cannot be prepared.", hint="Give pixels as H x W x 3, in BGR order."
        )
    if image.dtype != "uint8":
        raise ImageError(f"An image of {image.dtype} cannot be prepared.", hint="Give uint8 pixels, 0 to 255.")
