"""A small kernel for the tests of the layer: output = pixels * factor."""

from __future__ import annotations

from pathlib import Path

from convkit.kernels import Argument, Bound, Kernel, Launch, Variant, cdiv

SCALE = Kernel(
    name="test_scale",
    source=Path(__file__).parent / "kernels" / "scale.cu",
    arguments=(
        Argument("pixels", "uint8"),
        Argument("output", "T", output=True, alignment=16),
        Argument("count", "int32", pointer=False),
        Argument("factor", "float32", pointer=False),
        Argument("offset", "int64", pointer=False),
    ),
    sizes=("count",),
    geometry=lambda count, THREADS: Launch((cdiv(count, 4 * THREADS), 1, 1), (THREADS, 1, 1)),
    constants=("T", "THREADS"),
    bound=Bound(registers=40, shared=4096, spills=0),
)


def scale_variants() -> list[Variant]:
    """Return a variant for each output dtype."""
    return [SCALE.variant(T=dtype, THREADS=64) for dtype in ("float16", "bfloat16", "float32")]
