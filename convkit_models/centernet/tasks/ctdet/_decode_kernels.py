"""The kernels of the decoding: their declarations, and the variants that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv, itemsize
from convkit_models.centernet.tasks.ctdet._decode_pro import MOST_CELLS

__all__ = [
    *("DTYPES", "FEW", "LAYOUTS", "MOST_ROWS", "PEAKS", "PRO", "ROWS", "TUNINGS", "Tuning"),
    *("decode_variants", "peaks_variant", "pro_variant"),
]

MOST_ROWS = 2048
"""The largest K: the keys of so many peaks fit into the shared memory that every GPU gives a block."""
DTYPES = ("float32", "float16", "bfloat16")
"""What outputs may hold."""
LAYOUTS = {"planes": 0, "cells": 1, "tutorial": 2}
"""The constant LAYOUT: [C, H, W], [H, W, C], or the rows of the tutorial's tensor."""


@dataclass(frozen=True)
class Tuning:
    """What decides how the work is shared out; no result depends on it.

    ``threads`` of a block, of which a multiprocessor is to hold ``resident`` at least; a thread has ``rounds`` tiles of
    ``unroll`` vectors. A map is divided into at least ``groups`` times K groups of cells, as far as a group has one
    lane or more.
    """

    threads: int = 256
    unroll: int = 4
    groups: int = 8
    rounds: int = 1
    resident: int = 1


TUNINGS = (Tuning(threads=512), Tuning(threads=512, unroll=8, resident=2))
"""For few vectors, where the blocks that decide take most of the time, and for many, where scanning does."""
FEW = 2**19
"""How many vectors of a batch are few."""

_KERNELS = Path(__file__).parent / "kernels"

_POINTERS_AND_SIZES = (
    Argument("hm", "T"),
    Argument("wh", "T"),
    Argument("reg", "T"),
    Argument("back", "float64"),
    Argument("results", "float32", output=True),
    Argument("counts", "int32", output=True),
    Argument("scratch", "uint64", output=True, alignment=16),
    *(Argument(name, "int32", pointer=False) for name in ("classes", "height", "width")),
    *(
        Argument(f"{what}_{part}", dtype, pointer=False)  # see Divider
        for what in ("cells", "width", "vectors")
        for part, dtype in (("magic", "uint32"), ("shift", "int32"))
    ),
    Argument("topk", "int32", pointer=False),
)
_STRIDES = (
    Argument("hm_image", "int64", pointer=False),
    Argument("hm_cell", "int32", pointer=False),
    Argument("wh_image", "int64", pointer=False),
    *(Argument(name, "int32", pointer=False) for name in ("wh_axis", "wh_cell", "wh_class")),
    Argument("reg_image", "int64", pointer=False),
    *(Argument(name, "int32", pointer=False) for name in ("reg_axis", "reg_cell")),
)

PEAKS = Kernel(
    name="convkit_ctdet",
    source=_KERNELS / "ctdet.cu",
    arguments=(*_POINTERS_AND_SIZES, Argument("lanes_log", "int32", pointer=False), *_STRIDES),
    sizes=("batch", "vectors"),
    launch_config=lambda batch, vectors, THREADS, UNROLL, ROUNDS: LaunchConfig(  # noqa: N803 - named as constants
        grid=(cdiv(vectors, THREADS * UNROLL * ROUNDS), batch, 1), block=(THREADS, 1, 1)
    ),
    constants=("T", "LAYOUT", "VECTOR", "UNROLL", "ROUNDS", "THREADS", "RESIDENT", "CAPACITY"),
    options=("-default-device",),
    limit=ResourceLimit(registers=96, static_smem_bytes=48 * 1024, spill_bytes=0),
)
"""Peaks of a heat map to boxes."""

PRO = Kernel(
    name="convkit_ctdet_pro",
    source=_KERNELS / "pro.cu",
    arguments=(
        *_POINTERS_AND_SIZES,
        *(Argument(name, "float32", pointer=False) for name in ("least", "overlap")),
        *_STRIDES,
    ),
    sizes=("batch", "threads"),
    launch_config=lambda batch, threads, THREADS: LaunchConfig(  # noqa: N803
        grid=(cdiv(threads, THREADS), batch, 1), block=(THREADS, 1, 1)
    ),
    constants=("T", "LAYOUT", "VECTOR", "THREADS", "CAPACITY"),
    options=("-default-device",),
    limit=ResourceLimit(registers=72, static_smem_bytes=48 * 1024, spill_bytes=0),
)
"""Heads or the tutorial's tensor to boxes in the image, as tensorRT_Pro chooses them."""

ROWS = Kernel(
    name="convkit_ctdet_rows",
    source=_KERNELS / "rows.cu",
    arguments=(
        Argument("detections", "T"),
        Argument("back", "float64"),
        Argument("results", "float32", output=True),
        Argument("counts", "int32", output=True),
        Argument("topk", "int32", pointer=False),
        Argument("stride", "float32", pointer=False),
        Argument("image_step", "int64", pointer=False),
        *(Argument(name, "int32", pointer=False) for name in ("row_step", "column_step")),
    ),
    sizes=("batch",),
    launch_config=lambda batch, THREADS: LaunchConfig(grid=(batch, 1, 1), block=(THREADS, 1, 1)),  # noqa: N803
    constants=("T", "THREADS"),
    limit=ResourceLimit(registers=64, static_smem_bytes=1024, spill_bytes=0),
)
"""Decoded rows to boxes in the image."""


def decode_variants() -> list[Variant]:
    """Return variants that between them hold every path of the kernels: dtypes, layouts, vectors and sizes of lists."""
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
    return [*found, *(ROWS.variant(T=dtype, THREADS=128) for dtype in DTYPES)]


def peaks_variant(dtype: str, layout: int, vector: int, tuning: Tuning, topk: int) -> Variant:
    """Return the variant for K peaks of maps of a dtype and layout, read by vectors of so many values."""
    return PEAKS.variant(
        T=dtype,
        LAYOUT=layout,
        VECTOR=vector,
        UNROLL=tuning.unroll,
        ROUNDS=tuning.rounds,
        THREADS=tuning.threads,
        RESIDENT=tuning.resident,
        CAPACITY=1024 if topk <= 512 else MOST_ROWS,
    )


def pro_variant(dtype: str, layout: int, threads: int) -> Variant:
    """Return the variant of tensorRT_Pro's mode for maps of a dtype and layout."""
    return PRO.variant(T=dtype, LAYOUT=layout, VECTOR=1, THREADS=threads, CAPACITY=MOST_CELLS)
