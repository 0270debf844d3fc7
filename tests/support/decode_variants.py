"""Variants of the decode's kernels that between them have every path: dtypes, layouts, vectors and list sizes."""

from __future__ import annotations

from convkit.cuda import Variant, itemsize
from convkit_models.centernet.tasks.ctdet._decode_kernels import (
    DTYPES,
    LAYOUTS,
    ROWS,
    TUNINGS,
    peaks_variant,
    pro_variant,
)
from convkit_models.centernet.tasks.multi_pose import POSE_ROWS


def decode_variants() -> list[Variant]:
    """Return the variants."""
    few, many = TUNINGS
    found = [
        peaks_variant(dtype, layout, 16 // itemsize(dtype), tuning, 100)
        for dtype in DTYPES
        for layout in LAYOUTS.values()
        for tuning in (few, many)
    ]
    found += [peaks_variant(dtype, layout, 1, few, 100) for dtype in DTYPES for layout in LAYOUTS.values()]
    found += [peaks_variant("float16", layout, 4, many, 1000) for layout in LAYOUTS.values()]
    found += [pro_variant(dtype, layout, 256) for dtype in DTYPES for layout in LAYOUTS.values()]
    found += [POSE_ROWS.variant(T=dtype, THREADS=128) for dtype in DTYPES]
    return [*found, *(ROWS.variant(T=dtype, THREADS=128) for dtype in DTYPES)]
