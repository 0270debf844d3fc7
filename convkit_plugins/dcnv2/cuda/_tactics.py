"""Tactics of the Hopper kernel: ways to divide a layer among blocks and warps, and which of them to try first.

The best one depends on the layer and on the batch. ``tactics.json`` contains measurements; for another layer the
tactics of the most similar measured ones are timed on the device (see ``_search``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

__all__ = [
    *("CHUNK", "PATCH", "Problem", "Registers", "Tactic", "candidates", "fits", "registers"),
    *("shared_bytes", "tactic_constants"),
]

CHUNK = 64
"""Channels of a tile of weights: 128 bytes of a 16-bit type."""
PATCH = 64
"""Output pixels of a patch."""
_BLOCK_SMEM, _SM_SMEM, _RESERVED_SMEM = 227 * 1024, 228 * 1024, 1024
"""Shared memory of compute capability 9.0 in bytes: at most per block, per multiprocessor, and reserved per block."""
_BARRIERS = 1024
_BIAS = 1024


class Tactic(NamedTuple):
    """One division of the work. Each field in upper case is a macro of ``hopper.cu``.

    tile_n: output channels of a block: 32, 64, 128 or 256.
    patches: patches that a block computes per turn, with the same tiles of weights.
    producers: warpgroups that sample.
    cluster_m: blocks of a cluster that share their copies of the weights.
    cluster_k: blocks of a cluster that divide the sum over channels and taps.
    weight_stages: tiles of weights in shared memory.
    sample_stages: tiles of samples in shared memory.
    prefetch: samples that a thread loads ahead: 1, 2 or 4.
    blocks_per_sm: blocks that run on a multiprocessor at a time.
    """

    tile_n: int
    patches: int
    producers: int
    cluster_m: int
    cluster_k: int
    weight_stages: int
    sample_stages: int
    prefetch: int
    blocks_per_sm: int


@dataclass(frozen=True)
class Problem:
    """What the choice of a tactic depends on: a layer and the number of its output pixels in the whole batch.

    ``taps`` are those of one offset group. With ``blend_fp32`` samples are blended in float32, else in float16.
    """

    channels: int
    filters: int
    taps: int
    groups: int
    pixels: int
    blend_fp32: bool

    @property
    def tiles(self) -> int:
        """Tiles of weights along the sum over channels and taps."""
        return -(-self.channels // CHUNK) * self.taps


class Registers(NamedTuple):
    """Registers per thread of each role. Together they are at most what the warpgroups have at the launch."""

    consumer: int
    helper: int
    producer: int


def registers(tactic: Tactic) -> Registers:
    """Return how the roles divide the registers. The producers get what the others leave, 240 at most."""
    warpgroups, sums = tactic.producers + 2, tactic.patches * tactic.tile_n // 2
    launched = 65536 // (warpgroups * 128 * tactic.blocks_per_sm) // 8 * 8
    consumer, helper = sums + (40 if sums > 64 else 32), 64
    left = (launched * warpgroups - consumer - helper) // tactic.producers // 8 * 8
    return Registers(consumer, helper, min(left, 240))


def shared_bytes(tactic: Tactic, problem: Problem) -> int:
    """Return the dynamic shared memory of a block in bytes; ``hopper_layout.cuh`` checks this number."""
    weights, pitch = (16, 65) if problem.blend_fp32 else (8, 66)
    table = problem.groups * problem.taps * (pitch * weights + 68 * 4) * tactic.patches
    tiles = (tactic.weight_stages * tactic.tile_n + tactic.sample_stages * PATCH) * CHUNK * 2
    sums = tactic.patches * tactic.tile_n * PATCH * 4 if tactic.cluster_k > 1 else 0
    needed = _BARRIERS + _BIAS + tiles + table * (1 if tactic.cluster_k > 1 else 2) + sums
    return -(-needed // 1024) * 1024


def tactic_constants(tactic: Tactic, problem: Problem) -> dict[str, int]:
    """Return the constants of ``hopper.cu`` that a tactic determines; the kernel asserts that they fit each other."""
    roles = {f"{role.upper()}_REGISTERS": count for role, count in registers(tactic)._asdict().items()}
    fields = {name.upper(): value for name, value in tactic._asdict().items()}
    return {**fields, **roles, "SHARED": shared_bytes(tactic, problem)}


def fits(tactic: Tactic, problem: Problem) -> bool:
    """Return whether the kernel can be compiled and launched with a tactic.

    These are the assertions of ``hopper_layout.cuh``, which the choice of a tactic needs before anything is compiled.
    """
    tile_n, patches, producers, cluster_m, cluster_k, weight_stages, sample_stages, prefetch, blocks = tactic
    if tile_n not in (32, 64, 128, 256) or prefetch not in (1, 2, 4) or min(tactic) < 1:
        return False
    if cluster_m not in (1, 2, 4, 8) or cluster_m * cluster_k > 8 or problem.tiles % cluster_k:
        return False
    part, share = problem.tiles // cluster_k, tile_n // 2 // cluster_k
    if (tile_n // 2) % cluster_k or (share not in (2, 4) and share % 8):
        return False
    if producers > min(part * patches, sample_stages) or (producers + 2) * 128 * blocks > 1024:
        return False
    if patches * tile_n > 256 or registers(tactic).producer < 64:
        return False
    if sample_stages < 2 or not min(2, part) <= weight_stages <= part:
        return False
    if 8 * (2 * weight_stages + 2 * sample_stages + 4) > _BARRIERS:
        return False
    shared = shared_bytes(tactic, problem)
    return shared <= _BLOCK_SMEM and blocks * (shared + _RESERVED_SMEM) <= _SM_SMEM


def candidates(problem: Problem, count: int) -> list[Tactic]:
    """Return up to ``count`` tactics that fit, the most promising first: those of the most similar measured layers."""
    return list(_candidates(problem, count))


@lru_cache(maxsize=1024)
def _candidates(problem: Problem, count: int) -> tuple[Tactic, ...]:
    found: dict[Tactic, None] = {}
    for measured, tactics in sorted(_table(), key=lambda entry: _distance(entry[0], problem)):
        if measured.blend_fp32 != problem.blend_fp32:
            continue
        for tactic in tactics:
            part = problem.tiles // tactic.cluster_k or 1
            adapted = tactic._replace(
                weight_stages=min(tactic.weight_stages, part), producers=min(tactic.producers, part * tactic.patches)
            )
            if fits(adapted, problem) and tactic.tile_n <= max(32, 2 * problem.filters):
                found.setdefault(adapted)
        if len(found) >= count:
            break
    found.update(dict.fromkeys(tactic for tactic in _fallbacks(problem) if fits(tactic, problem)))
    return tuple(found)[:count]


def _fallbacks(problem: Problem) -> Iterator[Tactic]:
    """Yield tactics with little shared memory, for layers unlike any measured one."""
    for tile_n in (64, 32):
        for sample_stages in (4, 2):
            yield Tactic(
                tile_n=tile_n, patches=1, producers=min(sample_stages, problem.tiles), cluster_m=1, cluster_k=1,
                weight_stages=min(4, problem.tiles), sample_stages=sample_stages, prefetch=2, blocks_per_sm=1,
            )  # fmt: skip


def _distance(measured: Problem, problem: Problem) -> float:
    """Return the distance of two problems: the sum of the |log2| of their ratios, that of pixels halved."""
    return (
        abs(math.log2(measured.channels * measured.taps / problem.channels / problem.taps))
        + abs(math.log2(measured.filters / problem.filters))
        + abs(math.log2(measured.pixels / problem.pixels)) / 2
    )


_Record = TypeVar("_Record", Problem, Tactic)


@lru_cache(maxsize=1)
def _table() -> list[tuple[Problem, list[Tactic]]]:
    """Return the measured problems, each with its best tactics, fastest first."""
    text = (Path(__file__).parent / "tactics.json").read_text(encoding="utf-8")
    return [
        (_fields(Problem, entry), [_fields(Tactic, tactic) for tactic in entry["tactics"]])
        for entry in json.loads(text)["measured"]
    ]


def _fields(kind: type[_Record], values: dict[str, Any]) -> _Record:
    """Return a record of those values that are its fields."""
    return kind(**{name: values[name] for name in kind.__annotations__})
