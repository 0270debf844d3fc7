"""Every kernel of the project compiles with the signature and within the limit that it declares."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from support.dcn_variants import aot_variants, hopper_variants, pack_variants, plain_variants, tensor_variants
from support.decode_variants import decode_variants
from support.every_case import EVERY_CASE, covering
from support.sample_kernels import sample_variants
from support.torch_kernels import torch_kernel_variants
from support.warp_variants import warp_variants

from convkit.cuda import NUMBERS, Variant, check_limit, check_signature, compile_variant, evaluate
from convkit.runtime import NOT_FINITE

pytest.importorskip("cupy")

CAPABILITIES = (75, 80, 86, 89, 90, 100)
VARIANTS = [
    *(*sample_variants(), *warp_variants(), *decode_variants(), *torch_kernel_variants()),
    *(NOT_FINITE.variant(T=dtype, THREADS=256) for dtype in ("float32", "float16", "bfloat16")),
    *(*hopper_variants(), *plain_variants(), *tensor_variants(), *pack_variants(), *aot_variants()),
]


Case = tuple[Variant, int]
KERNELS = {
    name: [variant for variant in VARIANTS if variant.kernel.name == name]
    for name in dict.fromkeys(variant.kernel.name for variant in VARIANTS)
}
"""Variants by the names of their kernels; two orders of arguments may have one name."""


def capabilities(variant: Variant) -> list[int]:
    return [capability for capability in CAPABILITIES if variant.kernel.runs_on(capability)]


def cases(variants: list[Variant]) -> list[Case]:
    """Return variants in which all pairs of values meet, two of three with the oldest capability and with 90 in turn.

    Each other capability occurs once. Where every case is asked for, each variant has the oldest and 90, and the first
    has all.
    """
    first = [(variants[0], capability) for capability in capabilities(variants[0])]
    if EVERY_CASE:
        usual = [(each, capability) for each in variants for capability in sorted({capabilities(each)[0], 90})]
        return list(dict.fromkeys([*first, *usual]))
    found, others = [], [capability for _, capability in first[1:] if capability != 90]
    for number, variant in enumerate(covering(variants, lambda each: dict(each.constants))):
        turn = (capabilities(variant)[0], 90, others.pop() if others and number % 3 == 2 else 90)
        found.append((variant, turn[number % 3]))
    compiled = {capability for _, capability in found}
    return [*found, *(case for case in first if case[1] not in compiled)]


def signatures(variants: list[Variant]) -> list[Case]:
    """Return some with all types and switches; numbers change no type. PTX of what is compiled comes with the cubin."""
    candidates = [*cases(variants), *((each, capabilities(each)[0]) for each in variants)]
    return covering(
        candidates,
        lambda case: {name: value for name, value in case[0].constants if type(value) is not int},
        together=1,
    )


CASES = [case for variants in KERNELS.values() for case in cases(variants)]
SIGNATURES = [case for variants in KERNELS.values() for case in signatures(variants)]


@pytest.mark.parametrize(("variant", "capability"), CASES, ids=lambda value: getattr(value, "label", str(value)))
def test_compiles_within_its_limit(variant, capability):
    check_limit(compile_variant(variant, variant.kernel.target(capability, "cubin"), "cubin"), variant)


@pytest.mark.parametrize(("variant", "capability"), SIGNATURES, ids=lambda value: getattr(value, "label", str(value)))
def test_has_the_signature_that_it_declares(variant, capability):
    """For one capability: it is the same for all of them."""
    check_signature(compile_variant(variant, variant.kernel.target(capability, "ptx"), "ptx"), variant)


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


def test_every_kernel_is_compiled_for_every_capability_and_every_two_values_together():
    for name, variants in KERNELS.items():
        compiled = [(set(variant.constants), capability) for variant, capability in CASES if variant in variants]
        assert {capability for _, capability in compiled} == set(capabilities(variants[0])), name
        declared = set().union(*(variant.constants for variant, _ in SIGNATURES if variant in variants))
        for variant in variants:
            for pair in combinations(variant.constants, 2):
                assert any(set(pair) <= constants for constants, _ in compiled), (variant.label, pair)
            for value in variant.constants:
                assert type(value[1]) is int or value in declared, (variant.label, value)
