"""Tactics of the Hopper kernel: those measured, those proposed, and that the kernel accepts what `fits` does."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convkit.cuda import Kernel, LaunchConfig, compile_variant
from convkit.errors import KernelError
from convkit_plugins.dcnv2.cuda import HOPPER, Layer, Problem, Tactic, _tactics, candidates, fits, hopper_variant

MEASURED: list[dict[str, Any]] = json.loads(Path(_tactics.__file__).with_name("tactics.json").read_text())["measured"]


def problem_of(entry: dict[str, Any]) -> Problem:
    return Problem(**{name: value for name, value in entry.items() if name != "tactics"})


def tactics_of(entry: dict[str, Any]) -> list[Tactic]:
    return [Tactic(**{name: value for name, value in t.items() if name != "microseconds"}) for t in entry["tactics"]]


def name_of(entry: dict[str, Any]) -> str:
    blending = "float32" if entry["blend_fp32"] else "float16"
    return f"{entry['channels']}-{entry['filters']}-{entry['pixels']}-{blending}"


problems = st.builds(
    Problem,
    channels=st.integers(1, 300).map(lambda pieces: 8 * pieces),
    filters=st.integers(1, 2048),
    taps=st.integers(1, 49),
    groups=st.integers(1, 8),
    pixels=st.integers(1, 2**24),
    blend_fp32=st.booleans(),
)


@pytest.mark.parametrize("entry", MEASURED, ids=name_of)
def test_measured_tactics_fit_their_own_problem_fastest_first(entry: dict[str, Any]) -> None:
    problem, tactics = problem_of(entry), tactics_of(entry)
    times = [tactic["microseconds"] for tactic in entry["tactics"]]
    assert tactics
    assert len(set(tactics)) == len(tactics)
    assert times == sorted(times)
    assert min(times) > 1
    assert all(fits(tactic, problem) for tactic in tactics)


def test_problems_are_measured_once() -> None:
    assert len({name_of(entry) for entry in MEASURED}) == len(MEASURED)


@pytest.mark.parametrize("entry", MEASURED, ids=name_of)
def test_the_measured_best_is_proposed_first(entry: dict[str, Any]) -> None:
    tactics = tactics_of(entry)
    assert candidates(problem_of(entry), 1) == tactics[:1]
    assert candidates(problem_of(entry), len(tactics)) == tactics


Table = list[tuple[Problem, list[Tactic]]]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """An empty table in place of the measured one."""
    made: Table = []
    monkeypatch.setattr(_tactics, "_table", lambda: made)
    _tactics._candidates.cache_clear()
    yield made
    _tactics._candidates.cache_clear()


USUAL = Tactic(
    tile_n=64, patches=1, producers=1, cluster_m=1, cluster_k=1,
    weight_stages=4, sample_stages=6, prefetch=2, blocks_per_sm=1,
)  # fmt: skip
ONE, TWO, THREE = (USUAL._replace(producers=producers) for producers in (1, 2, 3))


def test_the_most_similar_measured_layers_come_first(table: Table) -> None:
    """Pixels count less than channels and filters, and their ratios count, not their differences."""
    table += [
        (Problem(128, 64, 9, 1, 4096, False), [ONE, TWO]),
        (Problem(128, 64, 9, 1, 131072, False), [TWO]),
        (Problem(256, 64, 9, 1, 65536, False), [THREE]),
    ]
    for pixels, order in (
        (5000, [ONE, TWO, THREE]),
        (22000, [ONE, TWO, THREE]),
        (24000, [TWO, ONE, THREE]),
        (60000, [TWO, THREE, ONE]),
    ):
        assert candidates(Problem(128, 64, 9, 1, pixels, False), 3) == order, pixels
    assert candidates(Problem(256, 64, 9, 1, 20000, False), 2) == [THREE, ONE]
    assert candidates(Problem(64, 64, 18, 1, 5000, False), 3) == [ONE, TWO, THREE], "a sum as long"


def test_measurements_with_the_other_blending_do_not_count(table: Table) -> None:
    table += [(Problem(128, 64, 9, 1, 4096, fp32), [ONE if fp32 else TWO]) for fp32 in (True, False)]
    for fp32 in (True, False):
        found = candidates(Problem(128, 64, 9, 1, 4096, fp32), 100)
        assert found[0] == (ONE if fp32 else TWO)
        assert (TWO if fp32 else ONE) not in found


def test_measured_tactics_are_adapted_to_shorter_sums(table: Table) -> None:
    four = USUAL._replace(producers=4, weight_stages=9)
    table += [(Problem(128, 64, 9, 1, 4096, False), [four, four._replace(patches=2)])]
    assert candidates(Problem(64, 64, 3, 1, 4096, False), 2) == [
        USUAL._replace(producers=3, weight_stages=3),
        USUAL._replace(producers=4, weight_stages=3, patches=2),
    ]


def test_measured_tactics_that_do_not_fit_are_left_out(table: Table) -> None:
    sliced, wide = USUAL._replace(producers=2, cluster_k=2), USUAL._replace(producers=2, tile_n=128)
    table += [(Problem(128, 128, 9, 1, 4096, False), [sliced, wide, ONE])]
    assert candidates(Problem(128, 128, 9, 1, 4096, False), 3) == [sliced, wide, ONE]
    assert candidates(Problem(64, 128, 9, 1, 4096, False), 2) == [wide, ONE], "9 tiles"
    assert candidates(Problem(128, 40, 9, 1, 4096, False), 2) == [sliced, ONE], "most columns would be unused"


@settings(max_examples=300)
@given(problem=problems, count=st.integers(1, 8))
@example(problem=Problem(8, 1, 1, 1, 1, True), count=6)
@example(problem=Problem(2400, 2048, 49, 1, 2**24, True), count=6)
@example(problem=Problem(64, 64, 49, 8, 4096, True), count=6)
def test_whatever_is_proposed_fits(problem: Problem, count: int) -> None:
    found = candidates(problem, count)
    assert len(found) <= count
    assert len(set(found)) == len(found)
    for tactic in found:
        assert fits(tactic, problem)
        assert tactic.tile_n <= max(64, 2 * problem.filters), "most columns would be unused"
    assert found == candidates(problem, 100)[:count]


@settings(max_examples=200)
@given(problem=problems)
def test_something_is_proposed_wherever_the_smallest_tactic_fits(problem: Problem) -> None:
    tiles = -(-problem.channels // 64) * problem.taps
    smallest = Tactic(
        tile_n=32, patches=1, producers=min(2, tiles), cluster_m=1, cluster_k=1,
        weight_stages=min(4, tiles), sample_stages=2, prefetch=2, blocks_per_sm=1,
    )  # fmt: skip
    if fits(smallest, problem):
        assert candidates(problem, 1)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """A kernel with the assertions of the Hopper kernel and nothing else, which compiles in a moment."""
    pytest.importorskip("cupy")
    source = tmp_path_factory.mktemp("layout") / "layout.cu"
    header = HOPPER.source.with_name("hopper_layout.cuh")
    source.write_text(
        f'#define TF32 0\n#include "{header}"\nextern "C" __global__ void layout(const int* x) {{}}\n', encoding="utf-8"
    )
    return Kernel(
        "layout", source, (), lambda: LaunchConfig((1, 1, 1), (32, 1, 1)), constants=HOPPER.constants,
        min_compute_capability=90, arch_specific=True,
    )  # fmt: skip


def refusal(layout: Kernel, tactic: Tactic, layer: Layer, channels: int, *, blend_fp32: bool, **changes: int) -> str:
    """The assertion of the kernel that a tactic breaks, or an empty string."""
    variant = hopper_variant(layer, "float16", channels, tactic, sigmoid=True, blend_fp32=blend_fp32)
    try:
        compile_variant(layout.variant(**{**dict(variant.constants), **changes}), "compute_90a", "ptx")
    except KernelError as error:
        return str(error)
    return ""


SQUARE = Layer(128, (3, 3), (1, 1), (1, 1))
GOOD = Tactic(
    tile_n=128, patches=1, producers=3, cluster_m=1, cluster_k=2,
    weight_stages=4, sample_stages=4, prefetch=2, blocks_per_sm=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cluster_k": 4}, "CLUSTER_K must divide the tiles"),  # 18 tiles
        ({"cluster_k": 3}, "too many slices"),  # 64 sums
        ({"cluster_m": 8}, "the largest portable cluster"),
        ({"cluster_m": 3}, "no such cluster"),
        ({"tile_n": 96}, "no such product"),
        ({"patches": 4}, "too many sums"),
        ({"producers": 7, "sample_stages": 7}, "too many threads"),
        ({"sample_stages": 2}, "producers would overtake"),
        ({"producers": 1, "sample_stages": 1}, "too few stages"),
        ({"weight_stages": 1}, "too few stages"),
        ({"weight_stages": 10}, "more stages of weights than tiles"),  # 9
        ({"prefetch": 3}, "PREFETCH is 1, 2 or 4"),
        ({"blocks_per_sm": 2}, "too many threads"),
        ({"tile_n": 256, "weight_stages": 9}, "too much shared memory"),
        ({"sample_stages": 18}, "too much shared memory"),
        ({"producers": 2, "blocks_per_sm": 2, "weight_stages": 2}, "too few registers for a producer"),
    ],
)
def test_what_does_not_fit_does_not_compile(layout: Kernel, change: dict[str, int], reason: str) -> None:
    problem, tactic = Problem(128, 128, 9, 1, 4096, True), GOOD._replace(**change)
    assert fits(GOOD, problem)
    assert not refusal(layout, GOOD, SQUARE, 128, blend_fp32=True)
    assert not fits(tactic, problem)
    assert reason in refusal(layout, tactic, SQUARE, 128, blend_fp32=True)


def test_every_producer_needs_a_tile(layout: Kernel) -> None:
    layer, problem = Layer(64, (1, 1)), Problem(64, 64, 1, 1, 4096, True)
    two = Tactic(64, 1, 2, 1, 1, 1, 2, 2, 1)
    assert not fits(two, problem)
    assert "a producer without a tile" in refusal(layout, two, layer, 64, blend_fp32=True)
    assert fits(two._replace(patches=2), problem)
    assert not refusal(layout, two._replace(patches=2), layer, 64, blend_fp32=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SHARED": 1024}, "SHARED is not what the block lays out"),
        ({"SHARED": -1024}, "SHARED is not what the block lays out"),
        ({"PRODUCER_REGISTERS": 8}, "more registers than the launch has"),
        ({"CONSUMER_REGISTERS": -16}, "too few registers for the sums"),
        ({"HELPER_REGISTERS": 4}, "multiples of 8"),
    ],
)
def test_the_kernel_checks_what_python_computes_for_it(layout: Kernel, change: dict[str, int], reason: str) -> None:
    constants = dict(hopper_variant(SQUARE, "float16", 128, GOOD, sigmoid=True).constants)
    ((name, difference),) = change.items()
    changed = {name: int(constants[name]) + difference}
    assert reason in refusal(layout, GOOD, SQUARE, 128, blend_fp32=True, **changed)


def test_the_kernel_accepts_what_fits_and_nothing_else(layout: Kernel) -> None:
    """Random tactics for random layers, half of them legal."""
    generator = random.Random(0)
    accepted = refused = 0
    while min(accepted, refused) < 60:
        groups = generator.choice([1, 1, 2, 4])
        layer = Layer(
            generator.choice([40, 64, 256]), generator.choice([(3, 3), (1, 1), (2, 3), (5, 5)]), groups=groups
        )
        channels, fp32 = groups * generator.choice([8, 64, 128, 512]), generator.random() < 0.5
        tactic = Tactic(
            tile_n=generator.choice([32, 64, 128, 256]), patches=generator.choice([1, 1, 2, 4]),
            producers=generator.randint(1, 6), cluster_m=generator.choice([1, 1, 2, 4]),
            cluster_k=generator.choice([1, 1, 2, 4, 8]), weight_stages=generator.randint(1, 12),
            sample_stages=generator.randint(2, 12), prefetch=generator.choice([1, 2, 4]),
            blocks_per_sm=generator.choice([1, 1, 1, 2]),
        )  # fmt: skip
        problem = Problem(channels, layer.filters, layer.taps, groups, 4096, fp32)
        if fits(tactic, problem):
            if accepted < 60:
                assert not refusal(layout, tactic, layer, channels, blend_fp32=fp32), tactic
            accepted += 1
        elif problem.tiles >= tactic.cluster_k:
            if refused < 60:
                assert "static assertion" in refusal(layout, tactic, layer, channels, blend_fp32=fp32), tactic
            refused += 1


def test_the_table_covers_the_layers_of_centernet() -> None:
    layers = ((512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64))
    found = {(entry["channels"], entry["filters"], entry["blend_fp32"]) for entry in MEASURED}
    assert found >= {(*layer, fp32) for layer, fp32 in itertools.product(layers, (False, True))}
