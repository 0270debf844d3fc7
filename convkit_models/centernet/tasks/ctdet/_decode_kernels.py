"""The kernels of the decode: their declarations and variants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv
from convkit_models.centernet.tasks.ctdet._decode_pro import MOST_CELLS

__all__ = [
    *("FEW", "MOST_ROWS", "PEAKS", "PRO", "TUNINGS", "Tuning", "peaks_variant", "pro_variant"),
]

MOST_ROWS = 2048
"""The largest K: the keys of so many peaks fit into the static shared memory of a block."""


@dataclass(frozen=True)
class Tuning:
    """How the work is divided; results do not depend on it.

    Blocks have ``threads`` threads, at least ``min_blocks_per_sm`` of them per multiprocessor; a thread scans
    ``rounds`` tiles of ``unroll`` vectors. A map has at least ``groups`` times K groups, if it has as many tiles.
    """

    threads: int = 256
    unroll: int = 4
    groups: int = 8
    rounds: int = 1
    min_blocks_per_sm: int = 1


TUNINGS = (Tuning(threads=512), Tuning(threads=512, unroll=8, min_blocks_per_sm=2))
"""For few vectors, where selecting takes most of the time, and for many, where scanning does."""
FEW = 2**19
"""The largest number of vectors of a batch that counts as few."""

_KERNELS = Path(__file__).parent / "kernels"

_POINTERS_AND_SIZES = (
    Argument("hm", "T"),
    Argument("wh", "T"),
    Argument("reg", "T"),
    Argument("output_to_image", "float64"),
    Argument("rows", "float32", output=True),
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
    constants=("T", "LAYOUT", "VECTOR", "UNROLL", "ROUNDS", "THREADS", "MIN_BLOCKS", "CAPACITY", "IN_CELLS"),
    options=("-default-device",),
    limit=ResourceLimit(registers=96, static_smem_bytes=48 * 1024, spill_bytes=0),
)
"""Peaks of a heat map to boxes."""

PRO = Kernel(
    name="convkit_ctdet_pro",
    source=_KERNELS / "pro.cu",
    arguments=(
        *_POINTERS_AND_SIZES,
        *(Argument(name, "float32", pointer=False) for name in ("threshold", "overlap")),
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
"""Heads or packed rows to boxes in the image, as tensorRT_Pro selects them."""


def peaks_variant(
    dtype: str, layout: int, vector: int, tuning: Tuning, topk: int, *, in_cells: bool = False
) -> Variant:
    """Return the variant for K peaks of maps of a dtype and layout, read in vectors of ``vector`` values.

    With ``in_cells`` the boxes stay in cells, and their rows end with the bits of class * cells + cell.
    """
    return PEAKS.variant(
        T=dtype,
        LAYOUT=layout,
        VECTOR=vector,
        UNROLL=tuning.unroll,
        ROUNDS=tuning.rounds,
        THREADS=tuning.threads,
        MIN_BLOCKS=tuning.min_blocks_per_sm,
        CAPACITY=1024 if topk <= 512 else MOST_ROWS,
        IN_CELLS=in_cells,
    )


def pro_variant(dtype: str, layout: int, threads: int) -> Variant:
    """Return the variant of tensorRT_Pro's mode for maps of a dtype and layout."""
    return PRO.variant(T=dtype, LAYOUT=layout, VECTOR=1, THREADS=threads, CAPACITY=MOST_CELLS)
