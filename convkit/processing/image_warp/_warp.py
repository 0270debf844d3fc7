"""The warp kernel for adapters: 8-bit images of any sizes into one normalised tensor, in one launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv, load
from convkit.errors import KernelArgumentError
from convkit.processing.image_warp._levels import fit_levels, line_values, two_lines

if TYPE_CHECKING:
    from convkit.processing import Placement

__all__ = [
    "IMAGE_RECORD",
    "WARP",
    "ImageWarp",
    "Rounding",
    "image_row",
    "image_table",
    "warp_variants",
]

Rounding = Literal["none", "even", "up"]
"""How a sampled value becomes an 8-bit level before it is normalised: not, to nearest even, or half up."""

IMAGE_RECORD = np.dtype(
    {
        "names": ["offset", "height", "width", "pitch", "matrix"],
        "formats": ["<i8", "<i4", "<i4", "<i4", ("<f4", (2, 3))],
        "offsets": [0, 8, 12, 16, 24],
        "itemsize": 48,
    }
)
"""One image of a batch, as the kernel reads it: what `image_table` fills in."""

_ROUNDINGS = ("none", "even", "up")
_DTYPES = ("float16", "bfloat16", "float32")
_MOST_SLOTS = 8
_MOST_PLANS = 256
_STEPS, _WARPS = 2, 4
_MOST_SIDE = 2**23  # a float32 coordinate still tells halves of a pixel apart
_MOST_BYTES = 2**31 - 16  # of one image or of one image's tensor elements: indices within them have 32 bits


def _geometry(batch: Any, height: Any, width: Any, STEPS: int, WARPS: int) -> LaunchConfig:  # noqa: N803 - named as constants
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
    launch_config=_geometry,
    constants=("T", "CHANNELS", "SLOTS", "LAST", "SWAP", "ROUND", "LINES", "STEPS", "WARPS"),
    limit=ResourceLimit(registers=64, static_smem_bytes=0),
)
"""The declaration of ``warp.cu``, whose head says what its constants mean."""


def image_table(
    placements: Sequence[Placement],
    offsets: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    *,
    channels: int = 3,
    pitches: Sequence[int] | None = None,
    capacity: int | None = None,
) -> np.ndarray:
    """Return the records [B] of a batch, of the dtype `IMAGE_RECORD` (48 bytes), ready for the upload as bytes.

    Image b has ``sizes[b]`` = (height, width) pixels of ``channels`` bytes, starts ``offsets[b]`` bytes behind the
    start of the pixel buffer, and has ``pitches[b]`` bytes from a row to the next (rows are dense by default).
    ``capacity`` is the length of the buffer in bytes, a multiple of 4: the kernel reads whole words of 4 bytes.

    Raises:
        KernelArgumentError: nothing is given, the lengths differ, an image is empty, too large for 32-bit indices or
            not within the buffer, or a matrix is not finite.
    """
    if not len(placements) == len(offsets) == len(sizes) == len(sizes if pitches is None else pitches) or not sizes:
        raise KernelArgumentError("A batch needs one placement, offset, size and pitch for each of its images.")
    if capacity is not None and capacity % 4:
        raise KernelArgumentError(f"The pixel buffer has {capacity} bytes.", hint="Round its length up to words of 4.")
    table = np.zeros(len(sizes), IMAGE_RECORD)
    for index, (placement, offset, (height, width)) in enumerate(zip(placements, offsets, sizes, strict=True)):
        pitch = width * channels if pitches is None else pitches[index]
        table[index] = image_row(placement, offset, height, width, pitch, channels=channels, capacity=capacity)
    return table


def image_row(
    placement: Placement,
    offset: int,
    height: int,
    width: int,
    pitch: int,
    *,
    channels: int = 3,
    capacity: int | None = None,
) -> tuple[int, int, int, int, np.ndarray]:
    """Return the values of one record of `image_table`, which says what they mean and what is refused."""
    matrix = np.asarray(placement.matrix)
    name = f"The image of {width} x {height} pixels with pitch {pitch} at offset {offset}"
    if not (0 < height < _MOST_SIDE and 0 < width < _MOST_SIDE) or height * pitch > _MOST_BYTES:
        raise KernelArgumentError(f"{name} is empty or too large for 32-bit indices.", hint="Scale it down first.")
    end = offset + (height - 1) * pitch + width * channels
    if pitch < width * channels or offset < 0 or (capacity is not None and end > capacity):
        raise KernelArgumentError(f"{name} does not lie within its pixel buffer.")
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or np.abs(matrix).max() > _MOST_SIDE:
        raise KernelArgumentError(f"{name} has no usable matrix: {matrix.tolist()}.")
    return offset, height, width, pitch, matrix


@dataclass(frozen=True)
class _Output:
    dtype: str
    shape: tuple[int, ...]
    last: bool

    @classmethod
    def of(cls, array: Any) -> _Output:
        """Return what matters of a torch tensor or anything with ``__cuda_array_interface__``.

        Raises:
            KernelArgumentError: it is neither contiguous nor channels-last.
        """
        if callable(getattr(array, "stride", None)):  # torch; its bfloat16 has no typestr
            dtype, shape, strides = str(array.dtype).removeprefix("torch."), tuple(array.shape), tuple(array.stride())
        else:
            interface = getattr(array, "__cuda_array_interface__", None)
            if interface is None:
                raise KernelArgumentError(f"The output is a {type(array).__name__}, no array on a GPU.")
            kind, shape, strides = np.dtype(interface["typestr"]), tuple(interface["shape"]), interface.get("strides")
            dtype = kind.name
            strides = strides and tuple(stride // kind.itemsize for stride in strides)
        if len(shape) != 4 or 0 in shape:
            raise KernelArgumentError(f"The output has the shape {list(shape)}.", hint="It must be [B, C, H, W].")
        _, channels, height, width = shape
        planes = (channels * height * width, height * width, width, 1)
        pixels = (channels * height * width, 1, width * channels, channels)
        for last, layout in ((False, planes), (True, pixels)):
            if all(size == 1 or a == b for size, a, b in zip(shape, strides or planes, layout, strict=True)):
                return cls(dtype, shape, last)
        raise KernelArgumentError(
            f"The output {list(shape)} has the strides {list(strides)}.", hint="Make it contiguous or channels-last."
        )


class ImageWarp:
    """A batch of 8-bit images into one normalised tensor on the GPU, as an adapter wants it.

    ``levels`` (float32 [C, 256]) is what each 8-bit level becomes in each channel *of the output*. ``border`` is the
    pixel beyond the image, in its own channel order; ``swap`` reverses the first three channels; ``channels`` are those
    of the images, which may have more than the output (BGRA to BGR). With ``rounding`` "even" the levels are those of
    OpenCV's ``warpAffine``; with "none" the values between two levels lie on the line through them.

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
        self.channels, self.swap, self.rounding = channels, swap, rounding
        self.border_pixel = tuple(border)
        self.border = sum(value << (8 * index) for index, value in enumerate(border))
        self._fits = {dtype: self._fit(dtype) for dtype in _DTYPES}
        self._loaded: dict[tuple[int, str], Any] = {}
        self._plans: dict[_Output, tuple[Variant, LaunchConfig]] = {}

    def values(self, dtype: str) -> np.ndarray:
        """Return the kernel's argument ``levels`` for an output of a dtype: float32 [channels, 4 or 256]."""
        return self._fits[dtype][1]

    def _fit(self, dtype: str) -> tuple[int, np.ndarray]:
        """Return LINES and ``levels`` of the kernel, with zeros for channels of the images that have no levels."""
        count, values = fit_levels(self.levels, dtype)
        if self.rounding == "none":
            count, values = 2, two_lines(self.levels)
            if np.abs(line_values(values) - self.levels).max() > 1e-6 * np.abs(self.levels).max():
                raise KernelArgumentError("The levels lie on no line.", hint='Round to levels: rounding="even".')
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
            LINES=self._fits[dtype][0],
            STEPS=_STEPS,
            WARPS=_WARPS,
        )

    def kernels(self) -> Sequence[Variant]:
        """Return the variants for outputs without padding: every dtype, as planes and channels-last."""
        return [self.variant(dtype, last=last) for dtype in _DTYPES for last in (False, True)]

    def launch(self, table: Any, pixels: Any, output: Any, stream: Any = None) -> None:
        """Fill ``output`` [B, C, H, W] on the stream; the first launch on a device also compiles and uploads levels.

        ``output`` is a torch tensor or what has ``__cuda_array_interface__``: float32, float16 or bfloat16, contiguous
        or channels-last, with up to 8 channels, zero beyond those of the levels. ``table`` is what `image_table` gives,
        uint8 [B, 48], and ``pixels`` the buffer that its offsets count in, both on the device (arrays or pointers).

        Raises:
            KernelArgumentError: an argument has the wrong dtype, device, shape, layout or alignment.
        """
        target = _Output.of(output)
        batch, _, height, width = target.shape
        if not isinstance(table, int) and tuple(table.shape) != (batch, IMAGE_RECORD.itemsize):
            raise KernelArgumentError(
                f"The table has the shape {list(table.shape)}; {batch} images need [{batch}, {IMAGE_RECORD.itemsize}]."
            )
        variant, grid = self._plans.get(target) or self._plan(target)
        launcher = load(variant)
        levels = self._levels(launcher.device, target.dtype)
        launcher(grid, table, pixels, levels, output, self.border, height, width, stream=stream)

    def _plan(self, target: _Output) -> tuple[Variant, LaunchConfig]:
        """Return, and remember, variant and geometry for an output."""
        batch, slots, height, width = target.shape
        if slots * height * width > _MOST_BYTES:
            raise KernelArgumentError(f"The output {list(target.shape)} is too large for 32-bit indices.")
        variant = self.variant(target.dtype, slots=slots, last=target.last)
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        plan = self._plans[target] = variant, variant.launch_config(batch=batch, height=height, width=width).check()
        return plan

    def _levels(self, device: int, dtype: str) -> Any:
        """Return the levels on the current device."""
        if (device, dtype) not in self._loaded:
            import cupy

            with cupy.cuda.Stream(non_blocking=True) as stream:
                self._loaded[device, dtype] = cupy.asarray(self.values(dtype))
                stream.synchronize()
        return self._loaded[device, dtype]


def warp_variants() -> list[Variant]:
    """Return variants that between them hold every path of the kernel: dtypes, layouts, channels and settings."""
    steps = np.tile(np.arange(256.0), (3, 1))
    usual, curve = ((steps / 255 - 0.45) / 0.225).astype(np.float32), np.sqrt(steps).astype(np.float32)
    variants = [variant for warp in (ImageWarp(usual), ImageWarp(curve, swap=True)) for variant in warp.kernels()]
    variants += [ImageWarp(usual).variant(dtype, slots=slots, last=True) for dtype in _DTYPES for slots in (4, 8)]
    variants += [ImageWarp(usual, rounding=rounding).variant("float16") for rounding in ("none", "up")]
    variants += [ImageWarp(usual, channels=4, border=(0,) * 4).variant("float16", last=last) for last in (False, True)]
    return [*variants, ImageWarp(usual[:1], channels=1, border=(0,)).variant("float32")]
