"""The tensor-core kernel for sm_80 and newer on the host, against the definition in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dcn_variants import tensor_variants
from support.deform_host import STRANGE, Call, Inputs, distance
from torch import Tensor

from convkit.cuda import compile_variant
from convkit.errors import KernelError
from convkit_plugins.dcnv2.cuda import (
    Division,
    Layer,
    division_for,
    pack_for_mma,
    tensor_serves,
    tensor_variant,
)

BOUNDS = {"float32": 2**-11, "float16": 2**-11, "bfloat16": 2**-8}
"""The unit roundoff of what the tensor cores take (float32 has 10 bits of fraction there, as float16): the most that
one rounding adds. Samples, weights of TF32 and the result are rounded, each by about a third of it and independently
of each other, so that a result as it should be stays below, and a sum in a 16-bit type does not."""
SQUARE = Layer(40, (3, 3), (1, 1), (1, 1))
MIDDLE = Division(64, 1, 2, 2)


@dataclass(frozen=True)
class Case(Call):
    """A call, and how its work is divided."""

    layer: Layer = SQUARE
    division: Division = MIDDLE


def compute(case: Case, given: Inputs, **options: Any) -> Tensor:
    """The output of the kernel."""
    variant = tensor_variant(case.layer, case.dtype, case.channels, case.division, **case.constants)
    return case.run(variant, pack_for_mma(given.weight, case.division.tile_n), given, {}, **options)


def check(case: Case, **options: Any) -> None:
    given = case.inputs()
    expected = given.definition(sigmoid=case.sigmoid, relu=case.relu)
    assert distance(compute(case, given, **options), expected) < BOUNDS[case.dtype]


CASES = {
    "blended in float32": Case(),
    "blended in float16": Case(blend_fp32=False),
    "bfloat16": Case(dtype="bfloat16"),
    "TF32": Case(dtype="float32", channels=20),
    "whole tiles of channels": Case(Layer(32, (3, 3), padding=(1, 1)), channels=64, division=Division(32, 1, 1, 2)),
    "three tiles of channels, the last of 8": Case(channels=136, size=(3, 3), blend_fp32=False),
    "TF32, three tiles of channels": Case(dtype="float32", channels=68, size=(3, 4)),
    "one filter": Case(Layer(1, (3, 3)), division=Division(32, 2, 1, 2)),
    "filters over several blocks": Case(Layer(70, (2, 2)), division=Division(32, 1, 1, 3), batch=2),
    "filters beyond 64 in a block": Case(Layer(100, (1, 2)), division=Division(128, 2, 1, 2), planes=True),
    "several patches": Case(division=Division(64, 4, 1, 2), size=(9, 17), channels=8),
    "images of a batch": Case(batch=3, size=(4, 3), raw_last=False, planes=True),
    "one tap": Case(Layer(16, (1, 1)), channels=8, division=Division(32, 1, 1, 2)),
    "fewer tiles than warps that share them": Case(Layer(16, (1, 1)), channels=8, division=Division(32, 2, 4, 2)),
    "fewer turns than stages": Case(Layer(16, (1, 1)), channels=8, division=Division(32, 2, 2, 3)),
    "tiles that the warps do not divide": Case(Layer(16, (1, 5)), division=Division(32, 1, 4, 2), size=(3, 9)),
    "sums of four warps": Case(division=Division(32, 2, 4, 2)),
    "three stages": Case(division=Division(32, 2, 2, 3), blend_fp32=False),
    "unequal axes": Case(Layer(9, (5, 2), (2, 1), (1, 0), (1, 3), 2), channels=32, size=(9, 11)),
    "stride": Case(Layer(40, (3, 3), (2, 3), (1, 1)), size=(9, 11), raw_last=False),
    "dilation": Case(Layer(40, (3, 3), (1, 1), (2, 3), (2, 3)), size=(5, 6)),
    "groups within a tile": Case(Layer(24, (3, 3), padding=(1, 1), groups=3), channels=24),
    "groups over tiles": Case(Layer(8, (2, 2), groups=2), channels=144, size=(4, 4), division=Division(32, 1, 2, 2)),
    "TF32 in groups": Case(Layer(8, (2, 3), groups=4), Division(32, 1, 2, 2), dtype="float32", channels=16),
    "masks as they are": Case(sigmoid=False),
    "relu": Case(relu=True, planes=True),
    "relu in bfloat16": Case(dtype="bfloat16", relu=True, sigmoid=False, raw_last=False),
    "planes before": Case(raw_last=False),
    "planes behind": Case(planes=True, blend_fp32=False),
    "TF32 in planes": Case(dtype="float32", planes=True, raw_last=False, batch=2, size=(3, 4)),
    "no offsets": Case(strange=(0.0,) * 9),
    "the smallest image": Case(size=(2, 2)),
}


GUARDED = (
    *("blended in float16", "TF32, three tiles of channels", "tiles that the warps do not divide"),
    "images of a batch",
)


@pytest.mark.parametrize("name", [name for name in CASES if name not in GUARDED])
def test_agrees_with_the_definition(name: str) -> None:
    check(CASES[name])


@pytest.mark.parametrize("side", ["start", "end"])
@pytest.mark.parametrize("name", GUARDED)
def test_agrees_with_the_definition_and_stays_within_its_memory(name: str, side: Any) -> None:
    check(CASES[name], guard=side)


@pytest.mark.parametrize("name", ["sums of four warps", "tiles that the warps do not divide", "three stages"])
def test_the_order_of_threads_and_blocks_does_not_matter(name: str) -> None:
    case = CASES[name]
    given = case.inputs()
    first = compute(case, given)
    for order in ("reverse", 1, 2):
        assert torch.equal(compute(case, given, order=order), first)


@pytest.mark.parametrize("name", ["sums of four warps", "three stages"])
def test_has_no_races(name: str) -> None:
    check(CASES[name], races=True)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any shape for a few variants: what is compiled is not drawn, because that takes a second."""
    layer, dtype, division, channels, blend_fp32 = draw(
        st.sampled_from(
            [
                (SQUARE, "float16", Division(64, 2, 2, 2), 24, False),
                (Layer(9, (5, 2), (2, 1), (1, 0), (1, 3), 2), "bfloat16", Division(32, 1, 4, 2), 32, True),
                (Layer(33, (1, 2), (1, 2), (0, 1)), "float32", Division(32, 2, 1, 3), 12, True),
            ]
        )
    )
    height, width = draw(st.tuples(st.integers(5, 11), st.integers(4, 11)))
    return Case(
        layer, division, dtype=dtype, channels=channels, size=(height, width), blend_fp32=blend_fp32,
        batch=draw(st.integers(1, 2)), raw_last=draw(st.booleans()),
        strange=draw(st.sampled_from([(), STRANGE])), seed=draw(st.integers(0, 99)),
    )  # fmt: skip


@settings(max_examples=20)
@given(case=cases(), order=st.sampled_from(["forward", "reverse", 3]))
def test_agrees_for_any_shape(case: Case, order: Any) -> None:
    check(case, order=order)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("relu", [False, True])
def test_what_is_not_a_number_is_kept(dtype: str, relu: bool) -> None:
    """In a pixel, a weight and a bias; with the bits that a GPU gives it, all of them set, in float32."""
    case = Case(
        Layer(3, (1, 1)), Division(32, 1, 1, 2), dtype=dtype, channels=8, size=(3, 3), relu=relu, strange=(0.0,) * 9
    )
    for name in ("x", "weight", "bias"):
        given = case.inputs()
        given.raw[:, :2] = 0
        tensor = getattr(given, name)
        tensor[(1,) * tensor.dim() if name == "bias" else (0, 0, 0, 0)] = torch.nan
        if dtype == "float32":
            tensor.view(torch.int32)[tensor.isnan()] = 0x7FFFFFFF
        expected = torch.from_numpy(given.definition()).isnan()
        assert expected.any()
        assert compute(case, given).isnan()[expected].all(), name


@settings(max_examples=300)
@given(
    filters=st.integers(1, 600), kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)), groups=st.integers(1, 8),
    pieces=st.integers(1, 40), pixels=st.integers(1, 2**20), multiprocessors=st.sampled_from([1, 16, 108, 132]),
    dtype=st.sampled_from(list(BOUNDS)),
)  # fmt: skip
def test_every_division_fits_48_kib(
    filters: int, kernel: tuple[int, int], groups: int, pieces: int, pixels: int, multiprocessors: int, dtype: str
) -> None:
    layer = Layer(filters, kernel, groups=groups)
    channels = groups * pieces * (4 if dtype == "float32" else 8)
    division = division_for(layer, pixels, multiprocessors)
    assert (division is not None) == tensor_serves(layer, dtype, (1, channels, 9, 9))
    if division is None:
        return
    variant = tensor_variant(layer, dtype, channels, division, sigmoid=True)
    config = variant.launch_config(batch=1, out_height=3, out_width=9)
    assert 0 < config.dynamic_smem_bytes <= 48 * 1024
    assert config.block == (32 * division.warps_m * division.warps_k, 1, 1)
    assert config.block[0] <= 256
    assert config.grid[1] * division.tile_n >= filters > (config.grid[1] - 1) * division.tile_n


@pytest.mark.parametrize("change", [-16, 16])
def test_the_kernel_checks_the_shared_memory_of_its_launch(change: int) -> None:
    variant = tensor_variants()[0]
    constants = dict(variant.constants)
    constants["SHARED"] += change
    wrong = variant.kernel.variant(**constants)
    pytest.importorskip("cupy")
    with pytest.raises(KernelError, match="SHARED is not what the block lays out"):
        compile_variant(wrong, "compute_80", "ptx")


def test_where_there_is_no_division_the_smallest_does_not_fit() -> None:
    pytest.importorskip("cupy")
    layer = Layer(8, (7, 7), groups=4)
    assert division_for(layer, 1) is None
    with pytest.raises(KernelError, match="too much shared memory"):
        compile_variant(tensor_variant(layer, "float16", 32, Division(32, 1, 1, 2), sigmoid=True), "compute_80", "ptx")


def test_few_pixels_are_spread_over_more_blocks() -> None:
    layer = Layer(256, (3, 3), (1, 1), (1, 1))
    few, many = (division_for(layer, pixels) for pixels in (256, 2**17))
    assert few is not None
    assert many is not None
    assert (many.tile_n, many.warps_m) == (128, 4)
    assert few.tile_n * few.warps_m < many.tile_n * many.warps_m
    assert few.warps_k > 1


@pytest.mark.parametrize(
    ("layer", "dtype", "shape", "served"),
    [
        (SQUARE, "float16", (1, 24, 9, 9), True),
        (SQUARE, "float16", (1, 20, 9, 9), False),  # no whole pieces of 16 bytes
        (SQUARE, "float32", (1, 20, 9, 9), True),
        (SQUARE, "float32", (1, 18, 9, 9), False),
        (SQUARE, "float64", (1, 64, 9, 9), False),
        (SQUARE, "bfloat16", (1, 64, 1, 9), False),  # no lower neighbour
        (SQUARE, "bfloat16", (1, 64, 9, 1), False),
        (Layer(8, (3, 3), groups=4), "float16", (1, 32, 9, 9), True),
        (Layer(8, (3, 3), groups=4), "float16", (1, 48, 9, 9), False),  # pieces across groups
        (Layer(8, (7, 7), groups=4), "float16", (1, 32, 9, 9), False),  # too many samples for 48 KiB
    ],
)
def test_serves_what_it_can_load(layer: Layer, dtype: str, shape: tuple[int, ...], served: bool) -> None:
    assert tensor_serves(layer, dtype, shape) == served


def test_variants_trace_to_c() -> None:
    for variant in tensor_variants():
        assert variant.trace().dynamic_smem_bytes <= 48 * 1024
