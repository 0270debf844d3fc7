"""Variants of the warp kernel that between them have every path: dtypes, layouts, channels and settings."""

from __future__ import annotations

from functools import cache

import numpy as np

from convkit.cuda import Variant
from convkit.processing.image_warp import ImageWarp

DTYPES = ("float16", "bfloat16", "float32")


@cache
def warp_variants() -> tuple[Variant, ...]:
    """Return the variants: a second to make, and two files ask."""
    steps = np.tile(np.arange(256.0), (3, 1))
    usual, curve = ((steps / 255 - 0.45) / 0.225).astype(np.float32), np.sqrt(steps).astype(np.float32)
    variants = [variant for warp in (ImageWarp(usual), ImageWarp(curve, swap=True)) for variant in warp.kernels()]
    variants += [ImageWarp(usual).variant(dtype, slots=slots, last=True) for dtype in DTYPES for slots in (4, 8)]
    variants += [ImageWarp(usual, rounding=rounding).variant("float16") for rounding in ("none", "up")]
    variants += [ImageWarp(usual, channels=4, border=(0,) * 4).variant("float16", last=last) for last in (False, True)]
    framed = ImageWarp(usual, edge="replicate", swap=True, rounding="up")
    variants += [framed.variant(dtype, last=last) for dtype in ("float16", "float32") for last in (False, True)]
    variants.append(ImageWarp(usual, channels=4, border=(0,) * 4, edge="replicate").variant("bfloat16"))
    variants.append(ImageWarp(usual[:1], channels=1, border=(0,), edge="replicate").variant("float32"))
    return (*variants, ImageWarp(usual[:1], channels=1, border=(0,)).variant("float32"))
