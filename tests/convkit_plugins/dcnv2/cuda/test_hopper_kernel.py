"""The Hopper kernel on the host, against the definition in float64.

Clusters need a GPU: what is here is everything else, from packed weights to outputs, with all roles of warpgroups and
the barriers between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from support.deform_host import Call, Inputs, distance
from support.every_case import EVERY_CASE
from support.kernel_faults import CHOSEN, Fault, plant
from torch import Tensor

from convkit.cuda import Argument, Kernel, LaunchConfig
from convkit.errors import KernelError
from convkit.testing.cuda_host import run_on_host
from convkit_plugins.dcnv2.cuda import HOPPER, Layer, Tactic, hopper_variant, pack_for_wgmma

BOUNDS = {"float16": 2**-11, "bfloat16": 2**-8}
"""The unit roundoff of the type; see ``test_tensor.py``."""
SQUARE = Layer(40, (3, 3), (1, 1), (1, 1))


def one(
    tile_n: int,
    weight_stages: int,
    prefetch: int = 2,
    producers: int = 1,
    sample_stages: int = 2,
    patches: int = 1,
) -> Tactic:
    """A tactic without a cluster."""
    return Tactic(tile_n, patches, producers, 1, 1, weight_stages, sample_stages, prefetch, 1)


USUAL = one(64, 9)


@dataclass(frozen=True)
class Case(Call):
    """A call, and its tactic."""

    layer: Layer = SQUARE
    tactic: Tactic = USUAL


def compute(case: Case, given: Inputs, *, multiprocessors: int = 2, kernel: Kernel = HOPPER, **options: Any) -> Tensor:
    """The output of the kernel, or of another one with its declaration."""
    usual = hopper_variant(case.layer, case.dtype, case.channels, case.tactic, **case.constants)
    variant = kernel.variant(**dict(usual.constants))
    weights, sizes = pack_for_wgmma(given.weight, case.tactic.tile_n), {"multiprocessors": multiprocessors}
    return case.run(variant, weights, given, sizes, **options)


CASES = {
    "weights that stay": Case(),
    "blended in float16": Case(blend_fp32=False),
    "bfloat16": Case(dtype="bfloat16"),
    "a ring of weights": Case(tactic=one(32, 4), channels=72),
    "several producers": Case(tactic=one(64, 4, prefetch=1, producers=3, sample_stages=4)),
    "two patches at a time": Case(tactic=one(64, 3, producers=2, sample_stages=3, patches=2), size=(17, 7)),
    "four samples ahead": Case(tactic=one(64, 3, prefetch=4, sample_stages=3)),
    "256 columns": Case(Layer(200, (2, 2)), tactic=one(256, 4)),
    "128 columns, two blocks of them": Case(Layer(200, (1, 2)), tactic=one(128, 2), planes=True),
    "filters that no 8 divide": Case(Layer(9, (2, 2)), tactic=one(32, 4)),
    "one filter, planes": Case(Layer(1, (2, 2)), tactic=one(32, 4), planes=True, batch=2),
    "more patches than blocks": Case(size=(9, 17), batch=2, channels=8, tactic=one(32, 4)),
    "groups": Case(Layer(24, (3, 3), padding=(1, 1), groups=3), tactic=one(32, 5)),
    "groups over tiles": Case(Layer(8, (2, 2), groups=2), channels=144, tactic=one(32, 6)),
    "unequal axes": Case(Layer(72, (5, 2), (2, 1), (1, 0), (1, 3), 2), channels=32, size=(9, 11), tactic=one(128, 3)),
    "pairs of filters": Case(Layer(34, (1, 2)), tactic=one(32, 2), channels=8),
    "planes of 8 filters": Case(Layer(40, (1, 1)), channels=8, tactic=one(64, 1), planes=True, batch=2, size=(9, 5)),
    "stride and dilation": Case(Layer(8, (3, 3), (2, 3), (2, 1), (2, 1)), channels=8, tactic=one(32, 4), size=(9, 11)),
    "one tap": Case(Layer(16, (1, 1)), channels=64, tactic=one(32, 1)),
    "masks as they are": Case(sigmoid=False, raw_last=False),
    "relu in bfloat16": Case(dtype="bfloat16", relu=True, planes=True, raw_last=False),
    "more producers than taps": Case(Layer(16, (1, 2)), tactic=one(32, 2, producers=5, sample_stages=6), channels=136),
    "as many producers as tiles": Case(Layer(16, (1, 2)), tactic=one(32, 2, 4, 4, 4, 2), size=(17, 10), channels=8),
    "no offsets": Case(strange=(0.0,) * 9),
    "the smallest image": Case(size=(2, 2)),
}


GUARDED = ("filters that no 8 divide", "groups", "a ring of weights")
"""Touching anything outside of the arrays is an error in these."""


@pytest.mark.parametrize("name", CASES)
def test_computes_the_definition(name: str) -> None:
    case = CASES[name]
    given = case.inputs()
    expected = given.definition(sigmoid=case.sigmoid, relu=case.relu)
    assert distance(compute(case, given, guard=name in GUARDED), expected) < BOUNDS[case.dtype]


SHORT = Layer(24, (2, 2))
MANY_TURNS = {
    "one tile of a turn": Case(Layer(8, (1, 1)), tactic=one(32, 1, sample_stages=4), channels=8, size=(48, 8)),
    "one sample ahead": Case(SHORT, tactic=one(32, 2, 1, 3, 4, 2), channels=72, size=(17, 34)),
    "two samples ahead": Case(SHORT, tactic=one(32, 3, 2, 3, 3, 2), channels=72, size=(17, 34)),
    "four samples ahead": Case(SHORT, tactic=one(32, 2, 4, 2, 5, 2), channels=72, size=(17, 34)),
    "weights that stay": Case(SHORT, tactic=one(32, 4, 2, 3, 4, 2), size=(17, 34), raw_last=False),
    "one patch at a time": Case(SHORT, tactic=one(32, 2, 4, 3, 5), size=(9, 26), batch=2, blend_fp32=False),
    "offsets in planes": Case(tactic=one(64, 2, 2, 4, 5), size=(8, 48), raw_last=False),
    "groups": Case(Layer(24, (3, 3), padding=(1, 1), groups=3), tactic=one(32, 2, 2, 4, 5, 2), size=(9, 23), batch=2),
    "more producers than taps": Case(
        Layer(40, (1, 2)), tactic=one(32, 2, 2, 5, 6, 2), channels=136, size=(8, 66), dtype="bfloat16", planes=True
    ),
}
"""At least five turns of a block, so that each table is prepared three times."""
ORDERS = ("forward", "reverse", 0, 1, 2, 3)


@pytest.mark.parametrize("case", MANY_TURNS.values(), ids=MANY_TURNS)
def test_computes_the_definition_in_many_turns_in_any_order_of_threads(case: Case) -> None:
    given = case.inputs()
    height, width = given.raw.shape[2:]
    patches = case.batch * -(-height // 8) * -(-width // 8)
    assert -(-patches // case.tactic.patches) >= 5
    orders = ORDERS if EVERY_CASE else ORDERS[:4]  # both ends and two at random; planted faults meet all
    results = [compute(case, given, multiprocessors=1, order=order) for order in orders]
    expected = given.definition(sigmoid=case.sigmoid, relu=case.relu)
    assert distance(results[0], expected) < BOUNDS[case.dtype]
    for order, result in zip(orders, results, strict=True):
        assert torch.equal(result, results[0]), order


@pytest.mark.parametrize("name", ["four samples ahead", "groups", "more producers than taps", "weights that stay"])
def test_touches_nothing_outside_in_many_turns(name: str) -> None:
    case = MANY_TURNS[name]
    given = case.inputs()
    expected = compute(case, given, multiprocessors=1)
    for guard in ("start", "end"):
        assert torch.equal(compute(case, given, multiprocessors=1, guard=guard), expected), guard


def test_does_not_depend_on_the_order_of_threads_or_the_number_of_blocks() -> None:
    case = CASES["more patches than blocks"]
    given = case.inputs()
    once = compute(case, given)
    assert torch.equal(once, compute(case, given, order="reverse"))
    assert torch.equal(once, compute(case, given, multiprocessors=1))
    assert torch.equal(once, compute(case, given, multiprocessors=100))


WAIT_FOR_TABLES = "wait(block.full_tables + next_turn % 2 * 8, ((next_turn - 1) / 2) & 1);"
RELEASE = "if (i > 0 || m > 0) release(m == 0);\n                last_samples = samples.slot;"
FAULTS = {
    "writes samples that are not multiplied yet": Fault(
        "if (j == 0) wait(block.empty_samples + 8 * ring.slot, ring.phase);"
    ),
    "copies weights over others": Fault(
        "if (n >= WEIGHT_STAGES) wait(block.empty_weights + 8 * s, (n / WEIGHT_STAGES - 1) & 1);"
    ),
    "multiplies weights that are not there yet": Fault(
        "if (!RESIDENT || turn == 0) wait(block.full_weights + 8 * weights.slot, weights.phase);"
    ),
    "reads tables that are not there yet": Fault(WAIT_FOR_TABLES),
    "reads tables of an earlier turn": Fault(WAIT_FOR_TABLES, WAIT_FOR_TABLES.replace("& 1", "& 1 ^ 1")),
    "writes tables that are in use": Fault("wait(block.empty_tables + turn % 2 * 8, (turn / 2 - 1) & 1);"),
    "keeps back tables": Fault("if (used_turn < next_turn) arrive(block.empty_tables + used_turn % 2 * 8);"),
    "begins before the tables are there": Fault("__syncthreads();", after="\n\n    if (group == 0) {"),
    "counts too few producers": Fault(
        "init_barrier(block.empty_tables + 8 * s, PRODUCERS * 4);",
        "init_barrier(block.empty_tables + 8 * s, PRODUCERS);",
    ),
    "forgets the phase": Fault("phase ^= 1;"),
}
MORE_FAULTS = FAULTS | {
    "multiplies samples that are not there yet": Fault("wait(block.full_samples + 8 * samples.slot, samples.phase);"),
    "a warp says too early that its samples are there": Fault(
        "__syncwarp();", after="\n        if (block.lane == 0) {\n            arrive(block.full_samples"
    ),
    "a warp says too early that its tables are there": Fault(
        "__syncwarp();", after="\n                if (block.lane == 0) arrive(block.full_tables"
    ),
    "counts too few warps of a producer": Fault(
        "init_barrier(block.full_samples + 8 * s, 4);", "init_barrier(block.full_samples + 8 * s, s == 0 ? 3 : 4);"
    ),
    "counts too few warps that prepare": Fault(
        "init_barrier(block.full_tables + 8 * s, PREPARERS / 32);",
        "init_barrier(block.full_tables + 8 * s, PREPARERS / 32 - 1);",
    ),
    "uses barriers before they are there": Fault("__syncthreads();", before="else "),
    "keeps back samples": Fault(RELEASE, "last_samples = samples.slot;"),
    "gives back what is being multiplied": Fault("wgmma_wait<1>();"),
    "waits for too few products": Fault("wgmma_wait<1>();", "wgmma_wait<2>();"),
    "gives back the tile of a running product": Fault(
        RELEASE, "last_samples = samples.slot; if (i > 0 || m > 0) release(m == 0);"
    ),
    "gives back the last tile too early": Fault("wgmma_wait<0>();"),
}
FAULTY_CASE = MANY_TURNS["one patch at a time"]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The kernel with all faults, of which none is chosen."""
    return replace(HOPPER, source=plant(HOPPER.source, MORE_FAULTS, tmp_path_factory.mktemp("faulty")))


@pytest.fixture(scope="module")
def expected() -> Tensor:
    return compute(FAULTY_CASE, FAULTY_CASE.inputs(), multiprocessors=1)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda fault: monkeypatch.setenv(CHOSEN, str([*MORE_FAULTS].index(fault) + 1))


def test_without_a_fault_nothing_is_found(faulty: Kernel, expected: Tensor) -> None:
    given = FAULTY_CASE.inputs()
    assert torch.equal(compute(FAULTY_CASE, given, multiprocessors=1, kernel=faulty, guard=True), expected)
    compute(FAULTY_CASE, given, multiprocessors=1, kernel=faulty, races=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_waiting_are_found(
    fault: str, faulty: Kernel, expected: Tensor, choose: Callable[[str], None]
) -> None:
    """By another result, by threads that wait for ever, or by samples outside of the image."""
    choose(fault)
    given = FAULTY_CASE.inputs()

    def is_right(order: Any) -> bool:
        options = {"order": order, "guard": True, "timeout": 20}
        try:
            return torch.equal(compute(FAULTY_CASE, given, multiprocessors=1, kernel=faulty, **options), expected)
        except KernelError:
            return False

    assert not all(map(is_right, ORDERS))


@pytest.mark.parametrize("fault", MORE_FAULTS)
def test_faults_in_waiting_are_races_or_deadlocks(fault: str, faulty: Kernel, choose: Callable[[str], None]) -> None:
    """In the first order that comes."""
    choose(fault)
    with pytest.raises(KernelError, match=r"race at byte|wait for threads that never arrive"):
        compute(FAULTY_CASE, FAULTY_CASE.inputs(), multiprocessors=1, kernel=faulty, races=True)


@pytest.mark.parametrize("name", ["several producers", "two patches at a time", "a ring of weights", "groups"])
def test_has_no_races(name: str) -> None:
    case = CASES[name]
    compute(case, case.inputs(), races=True)


@pytest.mark.parametrize("name", ["weights that stay", "one patch at a time", "four samples ahead"])
def test_has_no_races_in_many_turns(name: str) -> None:
    case = MANY_TURNS[name]
    given = case.inputs()
    compute(case, given, multiprocessors=1, races=True)
    compute(case, given, multiprocessors=1, races=True, order=1)


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
    kernel = Kernel("describe", tmp_path / "describe.cu", arguments, lambda: LaunchConfig((1, 1, 1), (32, 1, 1)))
    tiles = np.arange(32, dtype=np.uint32) * 7 * 1024 + 1024
    along = np.arange(32, dtype=np.uint32) % 4 * 32
    found = np.zeros(32, np.int64)
    run_on_host(kernel.variant(), LaunchConfig((1, 1, 1), (32, 1, 1)), [tiles, along, found])
    # PTX ISA, "Matrix descriptor": the address is matrix-descriptor-encode(x) = (x & 0x3ffff) >> 4, as are the strides.
    for tile, offset, descriptor in zip(tiles.tolist(), along.tolist(), found.tolist(), strict=True):
        assert descriptor & 0x3FFF == ((tile + offset) & 0x3FFFF) >> 4
        assert descriptor >> 32 & 0x3FFF == 8 * 128 >> 4
        assert descriptor >> 62 & 3 == 1
        assert descriptor >> 49 & 7 == 0  # base offset: tiles start where the swizzle repeats
