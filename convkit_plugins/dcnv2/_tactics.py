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

__all__ = ["CHUNK", "PATCH", "Problem", "Tactic", "candidates", "fits", "shared_bytes"]

CHUNK = 64
"""Channels of a tile of weights: 128 bytes of a 16-bit type."""
PATCH = 64
"""Output pixels of a warpgroup."""
_SHARED = 227 * 1024
"""Bytes of shared memory that the blocks of a multiprocessor may have together, without 1 KiB for each."""
_BARRIERS = 1024


class Tactic(NamedTuple):
    """One division of the work; the names are those of the macros of ``hopper.cu``.

    tile_n: output channels of a block: 32, 64, 128 or 256.
    wm: warpgroups of a block with patches of their own.
    wk: warpgroups that divide the sum of a patch.
    cm: blocks of a cluster that share what they copy of the weights.
    ck: blocks of a cluster that divide the sum of a patch.
    stages: tiles of weights in shared memory at a time.
    depth: halves of a tile's samples that are loaded ahead, 1 or 2.
    buffers: tiles whose samples are held for the tensor cores, 1 or 2.
    blocks: blocks of a multiprocessor.
    """

    tile_n: int
    wm: int
    wk: int
    cm: int
    ck: int
    stages: int
    depth: int
    buffers: int
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
    """Return the dynamic shared memory of a block: barriers, weights and sample tables, or the sums of slices."""
    samples = tactic.wm * problem.groups * problem.taps * PATCH * (16 + 4)
    core = tactic.stages * tactic.tile_n * CHUNK * 2 + samples
    if tactic.wk * tactic.ck > 1:
        core = max(core, tactic.wk * tactic.wm * tactic.tile_n * PATCH * 4)
    return _BARRIERS + core


def fits(tactic: Tactic, problem: Problem) -> bool:
    """Tell whether the kernel can be compiled and launched so."""
    tile_n, wm, wk, cm, ck, stages, _, buffers, blocks = tactic
    if problem.tiles % ck or cm * ck > 8 or wm * wk > 8 or buffers not in (1, 2):
        return False
    part = problem.tiles // ck
    slices = wk * ck
    if (tile_n // 2) % slices or (tile_n // 2 // slices not in (2, 4) and (tile_n // 2 // slices) % 8):
        return False
    if wk > part or (stages < part and stages < 2 * wk) or 16 * stages > _BARRIERS:
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
            adapted = tactic._replace(stages=min(tactic.stages, problem.tiles // tactic.ck or 1))
            if fits(adapted, problem) and tactic.tile_n <= max(32, 2 * problem.filters):
                found.setdefault(adapted)
        if len(found) >= count:
            break
    found.update(dict.fromkeys(tactic for tactic in _fallbacks(problem) if fits(tactic, problem)))
    return tuple(found)[:count]


def _fallbacks(problem: Problem) -> Iterator[Tactic]:
    """Yield tactics with little shared memory, for layers that are like no measured one."""
    for tile_n in (64, 32):
        for wm, blocks in ((2, 1), (1, 1)):
            yield Tactic(tile_n, wm, 1, 1, 1, min(4, problem.tiles), 2, 2, blocks)


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
