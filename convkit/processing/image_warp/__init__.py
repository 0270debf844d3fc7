"""An affine warp of images on the GPU, bit-equal to OpenCV, as a preprocess for adapters."""

from convkit.processing.image_warp._levels import fit_levels, line_values, rounded, two_lines
from convkit.processing.image_warp._reference import sample, warp
from convkit.processing.image_warp._warp import (
    IMAGE_RECORD,
    WARP,
    ImageWarp,
    Rounding,
    image_row,
    image_table,
    warp_variants,
)

__all__ = [
    "IMAGE_RECORD",
    "WARP",
    "ImageWarp",
    "Rounding",
    "fit_levels",
    "image_row",
    "image_table",
    "line_values",
    "rounded",
    "sample",
    "two_lines",
    "warp",
    "warp_variants",
]
