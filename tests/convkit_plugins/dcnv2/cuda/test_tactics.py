"""Tactics of the Hopper kernel: those measured, those proposed, and what a block of them needs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convkit_plugins.dcnv2.cuda import Problem, Tactic, _tactics, candidates, fits, shared_bytes

MEASURED: list[dict[str, Any]] = json.loads(Path(_tactics.__file__).with_name("tactics.json").read_text())["measured"]
OF_A_BLOCK, OF_A_MULTIPROCESSOR = 227 * 1024, 228 * 1024
"""Bytes of shared memory on compute capability 9.0, by the CUDA programming guide; 1 KiB of each block is reserved."""


def problem_of(entry: dict[str, Any]) -> Problem:
    return Problem(entry["channels"], entry["filters"], 9, 1, entry["pixels"], entry["exact"])


def name_of(entry: dict[str, Any]) -> str:
    return f"{entry['channels']}-{entry['filters']}-{entry['pixels']}-{'exact' if entry['exact'] else 'half'}"


def used_shared(tactic: Tactic, problem: Problem) -> int:
    """The end of what ``hopper.cu`` addresses in dynamic shared memory, region by region as it lays them out.

    Whole KiB, so that the tiles are aligned wherever memory ends at such a boundary.
    """
    barriers, bias = 1024, 256 * 4
    weights = 64 * 2 * tactic.tile_n  # 64 channels of two bytes for each output channel
    samples = 64 * 2 * 64  # and for each pixel
    # Of a tap: rows of four weights for 64 pixels, then as many indices; rows between them keep banks apart.
    of_a_tap = (65 * 4 * 4 if problem.exact else 66 * 4 * 2) + 68 * 4
    patches_at_once = tactic.patches if tactic.ck > 1 else 2 * tactic.patches  # the next ones are prepared
    tables = patches_at_once * problem.groups * problem.taps * of_a_tap
    # From each of the slices, another part of the sums of all patches.
    sums = tactic.patches * 64 * tactic.tile_n * 4 if tactic.ck > 1 else 0
    used = barriers + bias + tactic.stages * weights + tactic.ring * samples + tables + sums
    return -(-used // 1024) * 1024


def check_runs(tactic: Tactic, problem: Problem) -> None:
    """What the instructions of the kernel and the GPU ask of a tactic; the asserts of ``hopper.cu`` are among it."""
    tile_n, patches, producers, cm, ck, stages, ring, depth, blocks = tactic
    tiles = -(-problem.channels // 64) * problem.taps
    part, sums, threads = tiles // ck, tile_n // 2, (producers + 2) * 128
    assert tile_n in (32, 64, 128, 256), "there is no such product"
    assert 1 <= patches * sums <= 128, "sums in registers"
    launched = 65536 // (128 * (producers + 2) * blocks) // 8 * 8
    consumer, helper = patches * sums + (40 if patches * sums > 64 else 32), 64
    assert (launched * (producers + 2) - consumer - helper) // producers >= 64, "registers of a producer"
    assert cm in (1, 2, 4, 8)
    assert depth in (1, 2, 4)
    assert 1 <= cm * ck <= 8, "the largest portable cluster"
    assert 384 <= threads <= 1024
    assert 65536 // (threads * blocks) >= 64, "registers at the launch"
    assert tiles % ck == 0
    assert producers <= part * patches, "a producer without work in a turn"
    assert sums % ck == 0
    assert sums // ck in (2, 4) or sums // ck % 8 == 0, "shares of whole pairs or pieces"
    assert stages <= part, "tiles that are never used"
    assert stages >= (2 if part > 1 else 1), "a tile is given back when the products of the next have started"
    assert ring >= 2
    assert ring >= producers, "the producers pass each other"
    assert 8 * (2 * stages + 2 * ring + 2 * 2) <= 1024, "barriers"
    assert tile_n * 128 % (cm * 16) == 0, "a copy of a part of a tile"
    assert used_shared(tactic, problem) <= OF_A_BLOCK
    assert blocks * (used_shared(tactic, problem) + 1024) <= OF_A_MULTIPROCESSOR


problems = st.builds(
    Problem,
    channels=st.integers(1, 300).map(lambda pieces: 8 * pieces),
    filters=st.integers(1, 2048),
    taps=st.integers(1, 49),
    groups=st.integers(1, 8),
    pixels=st.integers(1, 2**24),
    exact=st.booleans(),
)


@pytest.mark.parametrize("entry", MEASURED, ids=name_of)
def test_measured_tactics_run_on_their_own_problem_fastest_first(entry: dict[str, Any]) -> None:
    problem, tactics = problem_of(entry), [Tactic(*numbers) for numbers in entry["tactics"]]
    assert tactics
    assert len(entry["microseconds"]) == len(tactics) == len(set(tactics))
    assert entry["microseconds"] == sorted(entry["microseconds"])
    assert min(entry["microseconds"]) > 1
    for tactic in tactics:
        assert fits(tactic, problem)
        check_runs(tactic, problem)


def test_problems_are_measured_once() -> None:
    assert len({name_of(entry) for entry in MEASURED}) == len(MEASURED)


@pytest.mark.parametrize("entry", MEASURED, ids=name_of)
def test_the_measured_best_is_proposed_first(entry: dict[str, Any]) -> None:
    tactics = [Tactic(*numbers) for numbers in entry["tactics"]]
    assert candidates(problem_of(entry), 1) == tactics[:1]
    assert candidates(problem_of(entry), len(tactics)) == tactics


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Problem, list[Tactic]]]]:
    """An empty table in place of the measured one."""
    made: list[tuple[Problem, list[Tactic]]] = []
    monkeypatch.setattr(_tactics, "_table", lambda: made)
    _tactics._candidates.cache_clear()
    yield made
    _tactics._candidates.cache_clear()


ONE, TWO, THREE = (Tactic(64, 1, producers, 1, 1, 4, 6, 2, 1) for producers in (1, 2, 3))


def test_the_most_similar_measured_layers_come_first(table: list[tuple[Problem, list[Tactic]]]) -> None:
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


def test_what_was_measured_with_other_weights_does_not_count(table: list[tuple[Problem, list[Tactic]]]) -> None:
    table += [(Problem(128, 64, 9, 1, 4096, exact), [ONE if exact else TWO]) for exact in (True, False)]
    for exact in (True, False):
        found = candidates(Problem(128, 64, 9, 1, 4096, exact), 100)
        assert found[0] == (ONE if exact else TWO)
        assert (TWO if exact else ONE) not in found


def test_measured_tactics_are_made_to_fit_shorter_sums(table: list[tuple[Problem, list[Tactic]]]) -> None:
    table += [
        (Problem(128, 64, 9, 1, 4096, False), [Tactic(64, 1, 4, 1, 1, 9, 6, 2, 1), Tactic(64, 2, 4, 1, 1, 9, 6, 2, 1)])
    ]
    assert candidates(Problem(64, 64, 3, 1, 4096, False), 2) == [
        Tactic(64, 1, 3, 1, 1, 3, 6, 2, 1),
        Tactic(64, 2, 4, 1, 1, 3, 6, 2, 1),
    ]


def test_measured_tactics_that_do_not_fit_are_left_out(table: list[tuple[Problem, list[Tactic]]]) -> None:
    sliced, wide = Tactic(64, 1, 2, 1, 2, 4, 6, 2, 1), Tactic(128, 1, 2, 1, 1, 4, 6, 2, 1)
    table += [(Problem(128, 128, 9, 1, 4096, False), [sliced, wide, ONE])]
    assert candidates(Problem(128, 128, 9, 1, 4096, False), 3) == [sliced, wide, ONE]
    assert candidates(Problem(64, 128, 9, 1, 4096, False), 2) == [wide, ONE], "9 tiles"
    assert candidates(Problem(128, 40, 9, 1, 4096, False), 2) == [sliced, ONE], (
        "more than half of the columns for nothing"
    )


@settings(max_examples=300)
@given(problem=problems, count=st.integers(1, 8))
@example(problem=Problem(8, 1, 1, 1, 1, True), count=6)
@example(problem=Problem(2400, 2048, 49, 1, 2**24, True), count=6)
@example(problem=Problem(64, 64, 49, 8, 4096, True), count=6)
def test_whatever_is_proposed_runs(problem: Problem, count: int) -> None:
    found = candidates(problem, count)
    assert len(found) <= count
    assert len(set(found)) == len(found)
    for tactic in found:
        check_runs(tactic, problem)
        assert tactic.tile_n <= max(64, 2 * problem.filters), "more than half of the columns for nothing"
    assert found == candidates(problem, 100)[:count]


@settings(max_examples=200)
@given(problem=problems)
def test_something_is_proposed_wherever_a_little_memory_is_left(problem: Problem) -> None:
    """A block of 32 columns and two tiles of samples, with four tiles of weights."""
    tiles = -(-problem.channels // 64) * problem.taps
    least = Tactic(32, 1, min(2, tiles), 1, 1, min(4, tiles), 2, 2, 1)
    if used_shared(least, problem) <= OF_A_BLOCK - 1024:
        assert candidates(problem, 1)


tactics = st.builds(
    Tactic,
    tile_n=st.sampled_from([32, 64, 128, 256]),
    patches=st.integers(1, 9),
    producers=st.integers(0, 8),
    cm=st.sampled_from([1, 2, 4, 8]),
    ck=st.sampled_from([1, 2, 3, 4, 8]),
    stages=st.integers(1, 64),
    ring=st.integers(1, 16),
    depth=st.integers(1, 5),
    blocks=st.integers(1, 3),
)
small = st.builds(  # mostly fits
    Tactic,
    tile_n=st.sampled_from([32, 64, 128, 256]),
    patches=st.integers(1, 4),
    producers=st.integers(1, 6),
    cm=st.sampled_from([1, 2, 4]),
    ck=st.sampled_from([1, 1, 2, 4]),
    stages=st.integers(1, 9),
    ring=st.integers(2, 8),
    depth=st.sampled_from([1, 2, 4]),
    blocks=st.integers(1, 2),
)


@settings(max_examples=1000)
@given(tactic=tactics | small, problem=problems)
def test_what_fits_runs(tactic: Tactic, problem: Problem) -> None:
    if fits(tactic, problem):
        check_runs(tactic, problem)


@given(tactic=tactics, problem=problems)
def test_shared_memory_is_what_the_kernel_lays_out(tactic: Tactic, problem: Problem) -> None:
    assert shared_bytes(tactic, problem) == used_shared(tactic, problem)


def test_what_does_not_fit_for_each_reason() -> None:
    problem, good = Problem(128, 128, 9, 1, 4096, True), Tactic(128, 1, 3, 1, 2, 4, 4, 2, 1)
    assert fits(good, problem)
    for change in (
        {"ck": 4},  # 18 tiles
        {"ck": 3},  # 64 sums
        {"cm": 8},
        {"patches": 4},  # 256 sums
        {"producers": 0},
        {"producers": 7, "ring": 7},
        {"ring": 2},
        {"producers": 1, "ring": 1},
        {"stages": 1},
        {"stages": 10},  # 9 tiles
        {"depth": 3},
        {"blocks": 2},  # 1280 threads
        {"tile_n": 256, "stages": 9},
        {"ring": 18},
        {"producers": 2, "blocks": 2, "stages": 2},  # 48 registers
    ):
        assert not fits(good._replace(**change), problem), change
    assert fits(good._replace(tile_n=64, producers=2, blocks=2, stages=2), problem)
    one = Problem(64, 64, 1, 1, 4096, True)
    assert fits(Tactic(64, 2, 2, 1, 1, 1, 2, 2, 1), one)
    assert not fits(Tactic(64, 1, 2, 1, 1, 1, 2, 2, 1), one), "two producers, one tile"


def test_the_table_covers_the_layers_of_centernet() -> None:
    layers = ((512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64))
    pairs = {(entry["channels"], entry["filters"], entry["exact"]) for entry in MEASURED}
    assert pairs >= {(*layer, exact) for layer, exact in itertools.product(layers, (False, True))}
