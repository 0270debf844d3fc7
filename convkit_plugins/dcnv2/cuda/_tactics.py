"""Tactics of the Hopper kernel: how a layer is divided among blocks and warps, and which division to try first.

What is best depends on the layer and on the batch. ``tactics.json`` holds what was measured; for another layer the
tactics of the most similar measured ones are tried on the device (see ``_search``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["CHUNK", "PATCH", "Problem", "Tactic", "candidates", "fits", "producer_registers", "shared_bytes"]

CHUNK = 64
"""Channels of a tile of weights: 128 bytes of a 16-bit type."""
PATCH = 64
"""Output pixels that a block computes at a time."""
_SHARED = 227 * 1024
"""Bytes of shared memory that the blocks of a multiprocessor may have together, without 1 KiB for each."""
_BARRIERS = 1024
_BIAS = 1024


class Tactic(NamedTuple):
    """One division of the work; the names are those of the macros of ``hopper.cu``.

    tile_n: output channels of a block: 32, 64, 128 or 256.
    patches: patches of a block at a time, which share what it copies of the weights.
    producers: warpgroups that sample.
    cm: blocks of a cluster that share what they copy of the weights.
    ck: blocks of a cluster that divide the sum of a patch.
    stages: tiles of weights in shared memory at a time.
    ring: tiles of samples in shared memory at a time.
    depth: samples of a thread that are loaded ahead: 1, 2 or 4.
    blocks: blocks of a multiprocessor.
    """

    tile_n: int
    patches: int
    producers: int
    cm: int
    ck: int
    stages: int
    ring: int
    depth: int
    blocks: int


@dataclass(frozen=True)
class Problem:
    """What the choice depends on: channels, filters, taps of all offset groups, output pixels of the whole batch.

    ``exact`` says that bilinear weights are float32 (else float16).
    """

    channels: int
    filters: int
    taps: int
    groups: int
    pixels: int
    exact: bool

    @property
    def tiles(self) -> int:
        """Tiles of weights along the sum."""
        return -(-self.channels // CHUNK) * self.taps


def shared_bytes(tactic: Tactic, problem: Problem) -> int:
    """Return the dynamic shared memory of a block: barriers, bias, weights, samples, tables, sums of slices."""
    weights, pitch = (16, 65) if problem.exact else (8, 66)
    table = problem.groups * problem.taps * (pitch * weights + 68 * 4) * tactic.patches
    tiles = tactic.stages * tactic.tile_n * CHUNK * 2 + tactic.ring * PATCH * CHUNK * 2
    sums = tactic.patches * tactic.tile_n * PATCH * 4 if tactic.ck > 1 else 0
    needed = _BARRIERS + _BIAS + tiles + table * (1 if tactic.ck > 1 else 2) + sums
    return -(-needed // 1024) * 1024  # on the host the memory begins at a multiple of 1024 only if it ends at one


def producer_registers(tactic: Tactic) -> int:
    """Return how many registers a thread that samples has, once consumer and helpers have taken theirs."""
    warpgroups, sums = tactic.producers + 2, tactic.patches * tactic.tile_n // 2
    launched = 65536 // (warpgroups * 128 * tactic.blocks) // 8 * 8
    return (launched * warpgroups - sums - (40 if sums > 64 else 32) - 64) // tactic.producers // 8 * 8


def fits(tactic: Tactic, problem: Problem) -> bool:
    """Tell whether the kernel can be compiled and launched so."""
    tile_n, patches, producers, cm, ck, stages, ring, depth, blocks = tactic
    if problem.tiles % ck or cm not in (1, 2, 4, 8) or cm * ck > 8 or depth not in (1, 2, 4):
        return False
    part, share = problem.tiles // ck, tile_n // 2 // ck
    if (tile_n // 2) % ck or (share not in (2, 4) and share % 8):
        return False
    if not 1 <= producers <= min(6, part * patches, ring) or (producers + 2) * 128 * blocks > 1024:
        return False
    if patches * tile_n > 256 or producer_registers(tactic) < 64:
        return False
    if ring < 2 or not min(2, part) <= stages <= part or 8 * (2 * stages + 2 * ring + 4) > _BARRIERS:
        return False
    return shared_bytes(tactic, problem) + 1024 <= _SHARED // blocks


def candidates(problem: Problem, count: int) -> list[Tactic]:
    """Return up to ``count`` tactics that fit, the most promising first: those of the most similar measured layers."""
    return list(_candidates(problem, count))


@lru_cache(maxsize=1024)
def _candidates(problem: Problem, count: int) -> tuple[Tactic, ...]:
    found: dict[Tactic, None] = {}
    for measured, tactics in sorted(_table(), key=lambda entry: _distance(entry[0], problem)):
        if measured.exact != problem.exact:
            continue
        for tactic in tactics:
            part = problem.tiles // tactic.ck or 1
            adapted = tactic._replace(
                stages=min(tactic.stages, part), producers=min(tactic.producers, part * tactic.patches)
            )
            if fits(adapted, problem) and tactic.tile_n <= max(32, 2 * problem.filters):
                found.setdefault(adapted)
        if len(found) >= count:
            break
    found.update(dict.fromkeys(tactic for tactic in _fallbacks(problem) if fits(tactic, problem)))
    return tuple(found)[:count]


def _fallbacks(problem: Problem) -> Iterator[Tactic]:
    """Yield tactics with little shared memory, for layers that are like no measured one."""
    for tile_n in (64, 32):
        for ring in (4, 2):
            yield Tactic(tile_n, 1, min(ring, problem.tiles), 1, 1, min(4, problem.tiles), ring, 2, 1)


def _distance(measured: Problem, problem: Problem) -> float:
    """Return how unlike two problems are: the sum of the binary logarithms of their ratios, pixels counting half."""
    return (
        abs(math.log2(measured.channels * measured.taps / problem.channels / problem.taps))
        + abs(math.log2(measured.filters / problem.filters))
        + abs(math.log2(measured.pixels / problem.pixels)) / 2
    )


@lru_cache(maxsize=1)
def _table() -> list[tuple[Problem, list[Tactic]]]:
    """Return the measured problems, each with its best tactics, fastest first."""
    text = (Path(__file__).parent / "tactics.json").read_text(encoding="utf-8")
    return [
        (
            Problem(entry["channels"], entry["filters"], 9, 1, entry["pixels"], entry["exact"]),
            [Tactic(*numbers) for numbers in entry["tactics"]],
        )
        for entry in json.loads(text)["measured"]
    ]
