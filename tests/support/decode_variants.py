"""Variants of the decode's kernels that between them have every path: dtypes, layouts, vectors and list sizes."""

from __future__ import annotations

from convkit.cuda import Variant, itemsize
from convkit_models.centernet.tasks._device_decode import ROWS
from convkit_models.centernet.tasks._device_layout import DTYPES, LAYOUTS
from convkit_models.centernet.tasks.ctdet._decode_kernels import TUNINGS, peaks_variant, pro_variant
from convkit_models.centernet.tasks.multi_pose import poses_variant


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
    found += [peaks_variant("float16", LAYOUTS["planes"], 8, tuning, 100, in_cells=True) for tuning in (few, many)]
    found += [poses_variant(dtype, LAYOUTS["planes"], 16 // itemsize(dtype), 100) for dtype in DTYPES]
    found += [poses_variant("float16", LAYOUTS["cells"], 1, topk) for topk in (100, 2000)]
    return [
        *found,
        *(ROWS.variant(T=dtype, LABELS=labels, THREADS=128) for dtype in DTYPES for labels in (True, False)),
    ]
