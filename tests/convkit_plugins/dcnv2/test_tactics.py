"""Tactics of the Hopper kernel: those measured, those proposed, and what a block of them needs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convkit_plugins.dcnv2 import _tactics
from convkit_plugins.dcnv2._tactics import Problem, Tactic, candidates, fits, shared_bytes

MEASURED: list[dict[str, Any]] = json.loads(Path(_tactics.__file__).with_name("tactics.json").read_text())["measured"]
OF_A_BLOCK, OF_A_MULTIPROCESSOR = 227 * 1024, 228 * 1024
"""Bytes of shared memory on compute capability 9.0, by the CUDA programming guide; 1 KiB of each block is reserved."""


def problem_of(entry: dict[str, Any]) -> Problem:
    return Problem(entry["channels"], entry["filters"], 9, 1, entry["pixels"], entry["exact"])


def name_of(entry: dict[str, Any]) -> str:
    return f"{entry['channels']}-{entry['filters']}-{entry['pixels']}-{'exact' if entry['exact'] else 'half'}"


def used_shared(tactic: Tactic, problem: Problem) -> int:
    """The end of what ``hopper.cu`` addresses in dynamic shared memory, region by region as it lays them out."""
    barriers = 1024
    tile = tactic.tile_n * 64 * 2  # 64 channels of two bytes for each output channel
    weights_of_a_sample = 4 * 4  # four corners, a float or a pair of equal halves
    index_of_a_sample = 4
    samples = tactic.wm * problem.groups * problem.taps * 64
    tables = barriers + tactic.stages * tile + samples * (weights_of_a_sample + index_of_a_sample)
    threads, sums_of_a_thread = 128 * tactic.wm * tactic.wk, 64 * tactic.tile_n // 128
    sums = barriers + threads * sums_of_a_thread * 4 if tactic.wk * tactic.ck > 1 else 0
    return max(tables, sums)


def check_runs(tactic: Tactic, problem: Problem) -> None:
    """What the instructions of the kernel and the GPU ask of a tactic; the asserts of ``hopper.cu`` are among it."""
    tile_n, wm, wk, cm, ck, stages, depth, buffers, blocks = tactic
    tiles = -(-problem.channels // 64) * problem.taps
    part, slices, sums = tiles // ck, wk * ck, tile_n // 2
    assert tile_n in (32, 64, 128, 256), "there is no such product"
    assert depth in (1, 2)
    assert buffers in (1, 2)
    assert cm * ck <= 8, "the largest portable cluster"
    assert 128 * wm * wk <= 1024
    assert 128 * wm * wk * blocks <= 2048
    assert tiles % ck == 0
    assert wk <= part, "a warpgroup without work"
    assert sums % slices == 0
    assert sums // slices in (2, 4) or sums // slices % 8 == 0, "shares of whole pairs or pieces"
    assert stages >= part or min(stages - wk, wk + 2) >= wk, "a tile would be waited for before it is asked for"
    assert 2 * 8 * stages <= 1024, "barriers"
    assert stages * tile_n * 128 // cm % 16 == 0
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


def test_between_two_measured_batches_the_nearer_counts() -> None:
    small, large = (next(e for e in MEASURED if name_of(e) == f"128-64-{n}-half") for n in (4096, 131072))
    for pixels, nearest in ((5000, small), (120_000, large)):
        (first,) = candidates(Problem(128, 64, 9, 1, pixels, False), 1)
        assert first == Tactic(*nearest["tactics"][0])
    assert small["tactics"][0] != large["tactics"][0]


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
    """A block of 32 columns and one warpgroup, with four tiles of weights."""
    least = Tactic(32, 1, 1, 1, 1, 4, 2, 2, 1)
    if used_shared(least, problem) <= OF_A_BLOCK - 1024:
        assert candidates(problem, 1)


tactics = st.builds(
    Tactic,
    tile_n=st.sampled_from([32, 64, 128, 256]),
    wm=st.integers(1, 4),
    wk=st.integers(1, 4),
    cm=st.sampled_from([1, 2, 4, 8]),
    ck=st.sampled_from([1, 2, 3, 4, 8]),
    stages=st.integers(1, 64),
    depth=st.integers(1, 2),
    buffers=st.integers(1, 3),
    blocks=st.integers(1, 2),
)


@settings(max_examples=1000)
@given(tactic=tactics, problem=problems)
def test_what_fits_runs(tactic: Tactic, problem: Problem) -> None:
    if fits(tactic, problem):
        check_runs(tactic, problem)


@given(tactic=tactics, problem=problems)
def test_shared_memory_is_what_the_kernel_lays_out(tactic: Tactic, problem: Problem) -> None:
    assert shared_bytes(tactic, problem) == used_shared(tactic, problem)


def test_what_does_not_fit_for_each_reason() -> None:
    problem, good = Problem(128, 128, 9, 1, 4096, True), Tactic(128, 1, 2, 1, 2, 4, 2, 2, 1)
    assert fits(good, problem)
    for change in (
        {"ck": 4},  # 18 tiles
        {"cm": 8},
        {"wm": 5},
        {"stages": 3},  # two warpgroups take turns, and the next tiles come late
        {"stages": 65, "tile_n": 32},
        {"blocks": 3},
        {"wk": 3},  # 64 sums
        {"wk": 8, "ck": 3, "tile_n": 256},  # 6 tiles
        {"tile_n": 256, "stages": 9},
        {"buffers": 3},
    ):
        assert not fits(good._replace(**change), problem), change


def test_the_table_covers_the_layers_of_centernet() -> None:
    layers = ((512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64))
    pairs = {(entry["channels"], entry["filters"], entry["exact"]) for entry in MEASURED}
    assert pairs >= {(*layer, exact) for layer, exact in itertools.product(layers, (False, True))}
