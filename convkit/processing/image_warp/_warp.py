"""The warp kernel for adapters: 8-bit images of any sizes into one normalised tensor, in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convkit.cuda import Argument, ArrayView, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv, load, upload
from convkit.errors import KernelArgumentError
from convkit.processing.image_warp._levels import fit_levels, line_values, two_lines

__all__ = ["FRAMED_RECORD", "IMAGE_RECORD", "WARP", "Edge", "ImageWarp", "Rounding", "SourceImage"]

Rounding = Literal["none", "even", "up"]
"""How a sampled value is rounded to an 8-bit level before it is normalised: not at all, to nearest even, or half up."""

Edge = Literal["border", "replicate"]
"""What a neighbour outside of the image is: the border pixel, or the nearest pixel of the image."""

IMAGE_RECORD = np.dtype(
    {
        "names": ["offset", "height", "width", "pitch", "matrix"],
        "formats": ["<i8", "<i4", "<i4", "<i4", ("<f4", (2, 3))],
        "offsets": [0, 8, 12, 16, 24],
        "itemsize": 48,
    }
)
"""The record of an image as the kernel reads it where the edge is the border."""
FRAMED_RECORD = np.dtype([("image", IMAGE_RECORD), ("rectangle", "<i4", (4,))])
"""The record of an image as the kernel reads it where the edge is replicated."""

_ROUNDINGS = ("none", "even", "up")
_EDGES = ("border", "replicate")
_DTYPES = ("float16", "bfloat16", "float32")
_MOST_SLOTS = 8
_MOST_PLANS = 256
_STEPS, _WARPS = 2, 4
_MOST_SIDE = 2**23  # float32 coordinates up to here have a resolution of half a pixel
_MOST_BYTES = 2**31 - 16  # of an image, and the most elements of its tensor: indices have 32 bits


def _launch_config(batch: Any, height: Any, width: Any, STEPS: int, WARPS: int) -> LaunchConfig:  # noqa: N803 - named as constants
    return LaunchConfig(grid=(cdiv(width, 32 * STEPS), cdiv(height, WARPS), batch), block=(32, WARPS, 1))


WARP = Kernel(
    name="convkit_warp",
    source=Path(__file__).parent / "warp.cu",
    arguments=(
        Argument("table", "uint8", alignment=16),
        Argument("pixels", "uint8", alignment=4),
        Argument("levels", "float32", alignment=16),
        Argument("output", "T", output=True, alignment=16),
        Argument("border", "uint32", pointer=False),
        Argument("height", "int32", pointer=False),
        Argument("width", "int32", pointer=False),
    ),
    sizes=("batch", "height", "width"),
    launch_config=_launch_config,
    constants=("T", "CHANNELS", "SLOTS", "LAST", "SWAP", "ROUND", "EDGE", "LINES", "STEPS", "WARPS"),
    limit=ResourceLimit(registers=64, static_smem_bytes=0),
)
"""The declaration of ``warp.cu``; the constants are documented there."""


@dataclass(frozen=True)
class SourceImage:
    """An image to warp: its size in pixels, bytes from a row to the next, and where it goes.

    ``matrix`` (float32 [2, 3]) maps pixels of the output to the image. ``rectangle`` is (left, top, right, bottom) in
    pixels of the output, right and bottom excluded: the part that the image covers where the edge is replicated.
    """

    height: int
    width: int
    pitch: int
    matrix: np.ndarray
    rectangle: tuple[int, int, int, int] | None = None


class ImageWarp:
    """A preprocess kernel: a batch of 8-bit images of any sizes into one normalised tensor, in one launch.

    ``levels`` (float32 [C, 256]) maps each 8-bit level of each channel *of the output* to its value. ``border`` is the
    pixel outside of the image, in the image's own channel order; ``swap`` reverses the first three channels;
    ``channels`` are those of the images, which may have more than the output (BGRA to BGR). With ``rounding`` "even"
    the 8-bit levels are those of OpenCV's ``warpAffine``; with "none" values between two levels lie on the line through
    them. With ``edge`` "replicate" each image fills a rectangle of the output as if its edge went on for ever, and the
    border fills the rest, as in a letterbox (OpenCV's ``BORDER_REPLICATE`` within the rectangle).

    Raises:
        KernelArgumentError: a setting is not usable.
    """

    def __init__(
        self,
        levels: np.ndarray,
        *,
        channels: int = 3,
        border: Sequence[int] = (0, 0, 0),
        swap: bool = False,
        rounding: Rounding = "even",
        edge: Edge = "border",
    ) -> None:
        self.levels = np.ascontiguousarray(levels, np.float32)
        if self.levels.ndim != 2 or self.levels.shape[1] != 256 or not np.isfinite(self.levels).all():
            raise KernelArgumentError(f"The levels are an array of {list(np.shape(levels))}, not finite [C, 256].")
        if channels not in (1, 3, 4) or not 0 < len(self.levels) <= channels or (swap and len(self.levels) < 3):
            raise KernelArgumentError(f"{len(self.levels)} channels cannot be made of images that have {channels}.")
        if len(border) != channels or not all(0 <= value <= 255 for value in border):
            raise KernelArgumentError(f"The border {list(border)} is not a pixel of {channels} bytes.")
        if rounding not in _ROUNDINGS:
            raise KernelArgumentError(f"There is no rounding {rounding!r}.", hint=f"Choose of {_ROUNDINGS}.")
        if edge not in _EDGES:
            raise KernelArgumentError(f"There is no edge {edge!r}.", hint=f"Choose of {_EDGES}.")
        self.channels, self.swap, self.rounding, self.edge = channels, swap, rounding, edge
        self.border_pixel = tuple(border)
        self.border = sum(value << (8 * index) for index, value in enumerate(border))
        self.record = FRAMED_RECORD if edge == "replicate" else IMAGE_RECORD
        self._fits = {dtype: self._fit(dtype) for dtype in _DTYPES}
        self._loaded: dict[tuple[int, str], Any] = {}
        self._plans: dict[tuple[tuple[int, ...], str, bool], tuple[Variant, LaunchConfig]] = {}

    def image(
        self,
        height: int,
        width: int,
        matrix: Any,
        *,
        pitch: int | None = None,
        rectangle: Sequence[int] | None = None,
    ) -> SourceImage:
        """Return an image of ``height`` x ``width`` pixels for `row`; rows are dense unless ``pitch`` is given.

        ``rectangle`` is needed where the edge is replicated.

        Raises:
            KernelArgumentError: the image is empty or too large for 32-bit indices, the matrix is not finite, or the
                rectangle is missing or not wanted.
        """
        name = f"The image of {width} x {height} pixels"
        pitch = width * self.channels if pitch is None else pitch
        if not (0 < height < _MOST_SIDE and 0 < width < _MOST_SIDE) or height * pitch > _MOST_BYTES:
            raise KernelArgumentError(f"{name} is empty or too large for 32-bit indices.", hint="Scale it down first.")
        if pitch < width * self.channels:
            raise KernelArgumentError(f"{name} has rows of {width * self.channels} bytes, but a pitch of {pitch}.")
        values = np.asarray(matrix, np.float32)
        if values.shape != (2, 3) or not np.isfinite(values).all() or np.abs(values).max() > _MOST_SIDE:
            raise KernelArgumentError(f"{name} has no usable matrix: {values.tolist()}.")
        if (rectangle is None) == (self.edge == "replicate") or (rectangle is not None and len(rectangle) != 4):
            raise KernelArgumentError(
                f"{name} has the rectangle {rectangle}; the edge is {self.edge!r}.",
                hint="Give (left, top, right, bottom) in pixels of the output where the edge is replicated.",
            )
        left, top, right, bottom = map(int, rectangle or (0, 0, 0, 0))
        return SourceImage(height, width, pitch, values, (left, top, right, bottom) if rectangle is not None else None)

    def row(self, image: SourceImage, offset: int) -> tuple[Any, ...]:
        """Return the values of a `record` for an image that starts ``offset`` bytes behind the start of the pixels."""
        values = offset, image.height, image.width, image.pitch, image.matrix
        return values if image.rectangle is None else (values, image.rectangle)

    def table(self, images: Sequence[SourceImage], offsets: Sequence[int], capacity: int | None = None) -> np.ndarray:
        """Return the records [B] of a batch. ``capacity`` is the length of the pixel buffer in bytes.

        Raises:
            KernelArgumentError: nothing is given, an image is not within the buffer, or the buffer's length is no
                multiple of 4 (the kernel reads whole words).
        """
        if not images or len(images) != len(offsets):
            raise KernelArgumentError("A batch needs an offset for each of its images, and an image.")
        if capacity is not None and capacity % 4:
            raise KernelArgumentError(
                f"The pixel buffer has {capacity} bytes.", hint="Round its length up to a multiple of 4."
            )
        for image, offset in zip(images, offsets, strict=True):
            end = offset + (image.height - 1) * image.pitch + image.width * self.channels
            if offset < 0 or (capacity is not None and end > capacity):
                raise KernelArgumentError(f"An image at bytes {offset} to {end} is not within its pixel buffer.")
        return np.array([self.row(*each) for each in zip(images, offsets, strict=True)], self.record)

    def values(self, dtype: str) -> np.ndarray:
        """Return the kernel's argument ``levels`` for an output of a dtype: float32 [channels, 4 or 256]."""
        return self._fits[dtype][1]

    def _fit(self, dtype: str) -> tuple[int, np.ndarray]:
        """Return LINES and ``levels`` of the kernel, with zeros for channels of the images that have no levels."""
        count, values = fit_levels(self.levels, dtype)
        if self.rounding == "none":
            count, values = 2, two_lines(self.levels)
            if np.abs(line_values(values) - self.levels).max() > 1e-6 * np.abs(self.levels).max():
                raise KernelArgumentError("The levels are not on a line.", hint='Round to levels: rounding="even".')
        return count, np.concatenate([values, np.zeros((self.channels - len(values), values.shape[1]), np.float32)])

    def variant(self, dtype: str, *, slots: int = 0, last: bool = False) -> Variant:
        """Return the kernel for an output of a dtype: planes, or channels ``last``; ``slots`` channels, or all.

        Raises:
            KernelArgumentError: the dtype is no floating type of the kernel, or there are fewer slots than channels.
        """
        slots = slots or len(self.levels)
        if dtype not in _DTYPES:
            raise KernelArgumentError(f"The output cannot be {dtype}.", hint=f"Choose of {', '.join(_DTYPES)}.")
        if not len(self.levels) <= slots <= _MOST_SLOTS:
            raise KernelArgumentError(f"{len(self.levels)} channels do not go into an output of {slots}.")
        return WARP.variant(
            T=dtype,
            CHANNELS=self.channels,
            SLOTS=slots,
            LAST=last,
            SWAP=self.swap,
            ROUND=_ROUNDINGS.index(self.rounding),
            EDGE=_EDGES.index(self.edge),
            LINES=self._fits[dtype][0],
            STEPS=_STEPS,
            WARPS=_WARPS,
        )

    def kernels(self) -> Sequence[Variant]:
        """Return the variants for outputs without padding: every dtype, as planes and channels-last."""
        return [self.variant(dtype, last=last) for dtype in _DTYPES for last in (False, True)]

    def launch(self, table: Any, pixels: Any, output: Any, stream: Any = None) -> None:
        """Fill ``output`` [B, C, H, W] on the stream; the first launch on a device also compiles and uploads levels.

        ``output`` is float32, float16 or bfloat16, contiguous or channels-last, with up to 8 channels; those without
        levels become zero. ``table`` (uint8 [B, bytes]) contains the records and ``pixels`` (uint8) the images at the
        offsets in them. All are arrays on the device; table and pixels may also be addresses.

        Raises:
            KernelArgumentError: an argument has the wrong dtype, device, shape, layout or alignment.
        """
        target = ArrayView.of("output", output)
        if len(target.shape) != 4 or 0 in target.shape:
            raise KernelArgumentError(
                f"The output has the shape {list(target.shape)}.", hint="It must be [B, C, H, W]."
            )
        if not isinstance(table, int):
            ArrayView.of("table", table).check_contiguous("table", (target.shape[0], self.record.itemsize))
        last = not target.contiguous
        if last and not target.channels_last:
            raise target.layout_error("output")
        variant, launch = self._plans.get((target.shape, target.dtype, last)) or self._plan(target, last)
        launcher = load(variant)
        levels = self._levels(launcher.device, target.dtype)
        height, width = target.shape[2:]
        launcher(launch, table, pixels, levels, output, self.border, height, width, stream=stream)

    def _plan(self, target: ArrayView, last: bool) -> tuple[Variant, LaunchConfig]:
        """Return, and remember, variant and launch configuration for an output."""
        batch, slots, height, width = target.shape
        if slots * height * width > _MOST_BYTES:
            raise KernelArgumentError(f"The output {list(target.shape)} is too large for 32-bit indices.")
        variant = self.variant(target.dtype, slots=slots, last=last)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        plan = variant, variant.launch_config(batch=batch, height=height, width=width).check()
        self._plans[target.shape, target.dtype, last] = plan
        return plan

    def _levels(self, device: int, dtype: str) -> Any:
        """Return the levels on the current device."""
        if (device, dtype) not in self._loaded:
            self._loaded[device, dtype] = upload(self.values(dtype))
        return self._loaded[device, dtype]
