"""Every kernel of the project compiles with the signature and within the limit that it declares."""

from __future__ import annotations

import numpy as np
import pytest
from support.dcn_variants import aot_variants, hopper_variants, pack_variants, plain_variants, tensor_variants
from support.decode_variants import decode_variants
from support.sample_kernels import sample_variants
from support.warp_variants import warp_variants

from convkit.cuda import NUMBERS, Variant, check_limit, check_signature, compile_variant, evaluate
from convkit.runtime import NOT_FINITE

pytest.importorskip("cupy")

CAPABILITIES = (75, 80, 86, 89, 90, 100)
VARIANTS = [
    *(*sample_variants(), *warp_variants(), *decode_variants()),
    *(NOT_FINITE.variant(T=dtype, THREADS=256) for dtype in ("float32", "float16", "bfloat16")),
    *(*hopper_variants(), *plain_variants(), *tensor_variants(), *pack_variants(), *aot_variants()),
]


def cases() -> list[tuple[Variant, int]]:
    """Return the first variant of each kernel with every capability, the others in turn with the oldest and with 90."""
    found, seen = [], set()
    for number, variant in enumerate(VARIANTS):
        possible = [capability for capability in CAPABILITIES if variant.kernel.runs_on(capability)]
        if variant.kernel.name in seen:
            both = sorted({possible[0], 90} & set(possible))
            possible = [both[number % len(both)]]
        seen.add(variant.kernel.name)
        found += [(variant, capability) for capability in possible]
    return found


CASES = cases()


@pytest.mark.parametrize(("variant", "capability"), CASES, ids=lambda value: getattr(value, "label", str(value)))
def test_compiles_as_declared(variant, capability):
    kernel = variant.kernel
    if capability == min(other for each, other in CASES if each is variant):  # it is the same for all of them
        check_signature(compile_variant(variant, kernel.target(capability, "ptx"), "ptx"), variant)
    check_limit(compile_variant(variant, kernel.target(capability, "cubin"), "cubin"), variant)


def truncated(first, second):
    """Divide as C does."""
    quotient = abs(first) // abs(second)
    return quotient if (first < 0) == (second < 0) else -quotient


IN_C = {**NUMBERS, "//": truncated, "cdiv": lambda size, divisor: truncated(size + divisor - 1, divisor)}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_launch_configurations_are_the_same_in_c(variant):
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


def test_every_kernel_is_compiled_for_every_capability_and_every_variant_for_one():
    compiled = {}
    for variant, capability in CASES:
        compiled.setdefault(variant.kernel.name, set()).add(capability)
    for variant in VARIANTS:
        assert compiled[variant.kernel.name] == {each for each in CAPABILITIES if variant.kernel.runs_on(each)}
        assert any(other is variant for other, _ in CASES)
