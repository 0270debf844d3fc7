"""An affine warp of images on the GPU, bit-equal to OpenCV, as a preprocess for adapters."""

from convkit.processing.image_warp._levels import fit_levels, line_values, rounded, two_lines
from convkit.processing.image_warp._reference import sample, warp
from convkit.processing.image_warp._warp import (
    FRAMED_RECORD,
    IMAGE_RECORD,
    WARP,
    Edge,
    ImageWarp,
    Rounding,
    SourceImage,
)

__all__ = [
    "FRAMED_RECORD",
    "IMAGE_RECORD",
    "WARP",
    "Edge",
    "ImageWarp",
    "Rounding",
    "SourceImage",
    "fit_levels",
    "line_values",
    "rounded",
    "sample",
    "two_lines",
    "warp",
]
