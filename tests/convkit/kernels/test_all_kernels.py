"""Every kernel of the project compiles for every architecture, with the signature and within the bound it declares."""

from __future__ import annotations

from importlib import import_module

import pytest
from support.sample_kernels import sample_variants

from convkit.kernels import Variant, check_bound, check_signature, compile_variant, describe

CAPABILITIES = (75, 80, 86, 89, 90, 100)
SOURCES: tuple[str, ...] = ()
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
    check_bound(compile_variant(variant, kernel.target(capability, "cubin"), "cubin"), variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_geometry_is_traced(variant):
    launch = describe(variant)["launch"]
    assert all(isinstance(text, str) for text in (*launch["grid"], *launch["block"], launch["shared"]))


def test_names_differ():
    labels = [variant.label for variant in VARIANTS]
    assert sorted(set(labels)) == sorted(labels)
