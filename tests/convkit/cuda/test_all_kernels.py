"""Every kernel of the project compiles for every architecture, with the signature and within the bound it declares."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from support.sample_kernels import sample_variants

from convkit.cuda import NUMBERS, Variant, check_limit, check_signature, compile_variant, evaluate

pytest.importorskip("cupy")

CAPABILITIES = (75, 80, 86, 89, 90, 100)
SOURCES: tuple[str, ...] = (
    "convkit.processing.image_warp:warp_variants",
    "convkit_models.centernet.tasks.ctdet._device_decode:decode_variants",
    "support.dcn_variants:hopper_variants",
    "support.dcn_variants:plain_variants",
    "support.dcn_variants:tensor_variants",
)
"""``module:function`` of what returns the variants of a kernel that are compiled here."""


def variants() -> list[Variant]:
    """Return the variants of all kernels."""
    found = sample_variants()
    for source in SOURCES:
        module, _, function = source.partition(":")
        found += getattr(import_module(module), function)()
    return found


VARIANTS = variants()
CASES = [
    (variant, capability) for variant in VARIANTS for capability in CAPABILITIES if variant.kernel.runs_on(capability)
]


@pytest.mark.parametrize(("variant", "capability"), CASES, ids=lambda value: getattr(value, "label", str(value)))
def test_compiles_as_declared(variant, capability):
    kernel = variant.kernel
    check_signature(compile_variant(variant, kernel.target(capability, "ptx"), "ptx"), variant)
    check_limit(compile_variant(variant, kernel.target(capability, "cubin"), "cubin"), variant)


def truncated(first, second):
    """Divide as C does."""
    quotient = abs(first) // abs(second)
    return quotient if (first < 0) == (second < 0) else -quotient


IN_C = {**NUMBERS, "//": truncated, "cdiv": lambda size, divisor: truncated(size + divisor - 1, divisor)}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_geometry_is_the_same_in_c(variant):
    traced, generator = variant.trace(), np.random.default_rng(2)
    for _ in range(50):
        sizes = {name: int(generator.integers(1, 10 ** generator.integers(1, 5))) for name in variant.kernel.sizes}
        launch = variant.launch_config(**sizes)
        for kind in ("grid", "block"):
            found = tuple(evaluate(value, sizes, IN_C) for value in getattr(traced, kind))
            assert found == getattr(launch, kind), (kind, sizes)
        assert evaluate(traced.dynamic_smem_bytes, sizes, IN_C) == launch.dynamic_smem_bytes


def test_names_differ():
    labels = [variant.label for variant in VARIANTS]
    assert sorted(set(labels)) == sorted(labels)
