"""The Hopper kernel with one warpgroup on the host, against the definition in float64.

Several warpgroups and clusters need a GPU: what is here is everything else, from packed weights to outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.deform_host import Call, Inputs, distance
from torch import Tensor

from convkit.kernels import Argument, Kernel, Launch
from convkit.kernels.host import run_on_host
from convkit_plugins.dcnv2._hopper import HOPPER, hopper_variant
from convkit_plugins.dcnv2._layers import Layer
from convkit_plugins.dcnv2._tactics import Tactic
from convkit_plugins.dcnv2._weights import pack_for_wgmma

BOUNDS = {"float16": 2**-11, "bfloat16": 2**-8}
"""The unit roundoff of the type; see ``test_tensor.py``."""
SQUARE = Layer(40, (3, 3), (1, 1), (1, 1))


def one(tile_n: int, stages: int, depth: int = 2, buffers: int = 2) -> Tactic:
    return Tactic(tile_n, 1, 1, 1, 1, stages, depth, buffers, 1)


USUAL = one(64, 9)


@dataclass(frozen=True)
class Case(Call):
    """A call, and its tactic."""

    layer: Layer = SQUARE
    tactic: Tactic = USUAL


def compute(case: Case, given: Inputs, *, multiprocessors: int = 2, **options: Any) -> Tensor:
    """The output of the kernel."""
    variant = hopper_variant(case.layer, case.dtype, case.channels, case.tactic, **case.constants)
    weights, sizes = pack_for_wgmma(given.weight, case.tactic.tile_n), {"multiprocessors": multiprocessors}
    return case.run(variant, weights, given, sizes, **options)


CASES = {
    "weights that stay": Case(),
    "blended in float16": Case(exact=False),
    "bfloat16": Case(dtype="bfloat16"),
    "a ring of weights": Case(tactic=one(32, 4), channels=72),
    "one set of operands": Case(tactic=one(64, 4, depth=1, buffers=1)),
    "half of the samples ahead": Case(tactic=one(64, 3, depth=1)),
    "256 columns": Case(Layer(200, (2, 2)), tactic=one(256, 4)),
    "128 columns, two blocks of them": Case(Layer(200, (1, 2)), tactic=one(128, 2), planes=True),
    "filters that no 8 divide": Case(Layer(9, (2, 2)), tactic=one(32, 4)),
    "one filter, planes": Case(Layer(1, (2, 2)), tactic=one(32, 4), planes=True, batch=2),
    "more patches than blocks": Case(size=(9, 25), batch=2, channels=8, tactic=one(32, 4)),
    "groups": Case(Layer(24, (3, 3), padding=(1, 1), groups=3), tactic=one(32, 5)),
    "groups over tiles": Case(Layer(8, (2, 2), groups=2), channels=144, tactic=one(32, 6)),
    "unequal axes": Case(Layer(72, (5, 2), (2, 1), (1, 0), (1, 3), 2), channels=32, size=(9, 11), tactic=one(128, 3)),
    "pairs of filters": Case(Layer(34, (1, 2)), tactic=one(32, 4), channels=8),
    "planes of 8 filters": Case(Layer(40, (1, 1)), channels=8, tactic=one(64, 1), planes=True, batch=2, size=(9, 5)),
    "stride and dilation": Case(Layer(8, (3, 3), (2, 3), (2, 1), (2, 1)), channels=8, tactic=one(32, 4), size=(9, 11)),
    "one tap": Case(Layer(16, (1, 1)), channels=64, tactic=one(32, 1, buffers=1)),
    "masks as they are": Case(sigmoid=False, raw_last=False),
    "relu in bfloat16": Case(dtype="bfloat16", relu=True, planes=True, raw_last=False),
    "no offsets": Case(strange=(0.0,) * 9),
    "the smallest image": Case(size=(2, 2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_computes_the_definition(case: Case) -> None:
    given = case.inputs()
    expected = given.definition(sigmoid=case.sigmoid, relu=case.relu)
    assert distance(compute(case, given), expected) < BOUNDS[case.dtype]


@pytest.mark.parametrize("name", ["filters that no 8 divide", "groups", "a ring of weights"])
def test_touches_nothing_outside(name: str) -> None:
    given = CASES[name].inputs()
    guarded = compute(CASES[name], given, guard=True)
    assert torch.equal(guarded, compute(CASES[name], given))


def test_does_not_depend_on_the_order_of_threads_or_the_number_of_blocks() -> None:
    case = CASES["more patches than blocks"]
    given = case.inputs()
    once = compute(case, given)
    assert torch.equal(once, compute(case, given, order="reverse"))
    assert torch.equal(once, compute(case, given, multiprocessors=1))
    assert torch.equal(once, compute(case, given, multiprocessors=100))


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
def test_what_is_not_a_number_is_kept_by_relu(name: str) -> None:
    case = Case(Layer(8, (1, 1)), tactic=one(32, 1), channels=8, size=(3, 3), relu=True, strange=(0.0,) * 9)
    given = case.inputs()
    given.raw[:, :2] = 0
    getattr(given, name)[(0, 0, 0, 0) if name != "bias" else 1] = torch.nan
    expected = torch.from_numpy(given.definition()).isnan()
    assert expected.any()
    assert compute(case, given).isnan()[expected].all()


def test_descriptors_tell_address_stride_and_swizzle(tmp_path) -> None:
    (tmp_path / "describe.cu").write_text(
        f"""#include "convkit.cuh"
typedef half_t T;
#include "{HOPPER.source.parent / "wgmma.cuh"}"
extern "C" __global__ void describe(const unsigned* at, const unsigned* along, long long* out) {{
    out[threadIdx.x] = descriptor_of(at[threadIdx.x], along[threadIdx.x]);
}}
""",
        encoding="utf-8",
    )
    arguments = (Argument("at", "uint32"), Argument("along", "uint32"), Argument("out", "int64", output=True))
    kernel = Kernel("describe", tmp_path / "describe.cu", arguments, lambda: Launch((1, 1, 1), (32, 1, 1)))
    tiles = np.arange(32, dtype=np.uint32) * 7 * 1024 + 1024
    along = np.arange(32, dtype=np.uint32) % 4 * 32
    found = np.zeros(32, np.int64)
    run_on_host(kernel.variant(), Launch((1, 1, 1), (32, 1, 1)), [tiles, along, found])
    # PTX ISA, "Matrix descriptor": the address is matrix-descriptor-encode(x) = (x & 0x3ffff) >> 4, as are the strides.
    for tile, offset, descriptor in zip(tiles.tolist(), along.tolist(), found.tolist(), strict=True):
        assert descriptor & 0x3FFF == ((tile + offset) & 0x3FFFF) >> 4
        assert descriptor >> 32 & 0x3FFF == 8 * 128 >> 4
        assert descriptor >> 62 & 3 == 1
        assert descriptor >> 49 & 7 == 0  # base offset: tiles start where the swizzle repeats
