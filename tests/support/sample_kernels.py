"""Small kernels for the tests of the layer."""

from __future__ import annotations

from pathlib import Path

from convkit.cuda import Argument, Kernel, LaunchConfig, ResourceLimit, Variant, cdiv

FOLDER = Path(__file__).parent / "kernels"

SCALE = Kernel(
    name="test_scale",
    source=FOLDER / "scale.cu",
    arguments=(
        Argument("pixels", "uint8"),
        Argument("output", "T", output=True, alignment=16),
        Argument("count", "int32", pointer=False),
        Argument("factor", "float32", pointer=False),
        Argument("offset", "int64", pointer=False),
    ),
    sizes=("count",),
    launch_config=lambda count, THREADS: LaunchConfig((cdiv(count, 4 * THREADS), 1, 1), (THREADS, 1, 1)),
    constants=("T", "THREADS"),
    limit=ResourceLimit(registers=40, static_smem_bytes=4096),
)
"""output = pixels * factor"""

CONVERT = Kernel(
    name="test_convert",
    source=FOLDER / "convert.cu",
    arguments=(
        Argument("values", "float32"),
        Argument("bits", "uint16", output=True),
        Argument("back", "float32", output=True),
        Argument("pairs", "uint32", output=True),
        Argument("halves", "float32", output=True),
        Argument("count", "int32", pointer=False),
    ),
    sizes=("count",),
    launch_config=lambda count: LaunchConfig((cdiv(count, 128), 1, 1), (128, 1, 1)),
    constants=("T",),
    limit=ResourceLimit(registers=32, static_smem_bytes=0),
)
"""float to T and back, alone and in pairs"""

REVERSE = Kernel(
    name="test_reverse",
    source=FOLDER / "reverse.cu",
    arguments=(
        Argument("input", "float32"),
        Argument("output", "float32", output=True),
        Argument("count", "int32", pointer=False),
    ),
    sizes=("count",),
    launch_config=lambda count: LaunchConfig((1, 1, 1), (256, 1, 1), 4 * count),
    limit=ResourceLimit(registers=32, static_smem_bytes=0),
)
"""one block with a dynamic shared memory of the whole array"""


def sample_variants() -> list[Variant]:
    """Return every variant of the small kernels that the tests use."""
    scales = [SCALE.variant(T=dtype, THREADS=64) for dtype in ("float16", "bfloat16", "float32")]
    return [*scales, *(CONVERT.variant(T=dtype) for dtype in ("float16", "bfloat16")), REVERSE.variant()]
