"""The shapes at which an artifact is proved: min, opt, max and an odd one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from convkit.model import BATCH, Dim

__all__ = ["Case", "ItemSizes", "engine_cases", "shape_cases"]

ItemSizes = tuple[tuple[str, int], ...]
"""The size of each dimension but the batch."""


@dataclass(frozen=True)
class Case:
    """One size of every named dimension, called after the corner of the profile it is.

    ``varying`` names the dynamic dimensions, the ones worth mentioning.
    """

    name: str
    sizes: tuple[tuple[str, int], ...]
    varying: tuple[str, ...] = ()

    @property
    def table(self) -> dict[str, int]:
        """The sizes by dimension name."""
        return dict(self.sizes)

    @property
    def batch(self) -> int:
        """The batch size, 1 for a model without that dimension."""
        return self.table.get(BATCH, 1)

    @property
    def item_sizes(self) -> ItemSizes:
        """The sizes of all dimensions but the batch."""
        return tuple(item for item in self.sizes if item[0] != BATCH)

    def __str__(self) -> str:
        shown = [f"{name} {size}" for name, size in self.sizes if name in self.varying or not self.varying]
        return f"{self.name} ({', '.join(shown)})" if shown else self.name

    def to_json(self) -> dict[str, Any]:
        """Return name and sizes as a JSON object."""
        return {"name": self.name, "sizes": self.table}


def shape_cases(dims: Iterable[Dim]) -> list[Case]:
    """Return the corners of the profile and one odd shape inside it, each shape once."""
    dims = tuple(dims)
    corners = {
        "min": tuple((dim.name, dim.min) for dim in dims),
        "opt": tuple((dim.name, dim.opt) for dim in dims),
        "max": tuple((dim.name, dim.max) for dim in dims),
        "odd": tuple((dim.name, odd_size(dim)) for dim in dims),
    }
    names: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for name, sizes in corners.items():
        names.setdefault(sizes, []).append(name)
    varying = tuple(dim.name for dim in dims if dim.dynamic)
    return [Case("=".join(found), sizes, varying) for sizes, found in names.items()]


def engine_cases(dims: Iterable[Dim]) -> list[Case]:
    """Return the shapes at which a graph for an engine is tried before it runs: the corners of its profile.

    The odd shape is among them where more than the batch varies; the graph that the engine's was made of was proved in
    all of `shape_cases`, and so is the engine itself where it runs.
    """
    dims = tuple(dims)
    cases = shape_cases(dims)
    if any(dim.dynamic for dim in dims if dim.name != BATCH):
        return cases
    return [case for case in cases if case.name != "odd"]


def odd_size(dim: Dim) -> int:
    """Return a size that nobody tuned for: a prime number of steps, neither min, opt nor max; the smallest batch."""
    inside = [
        size
        for size in range(dim.min + (-dim.min % dim.multiple_of), dim.max + 1, dim.multiple_of)
        if size not in (dim.min, dim.opt, dim.max)
    ]
    primes = [size for size in inside if _prime(size // dim.multiple_of) and size // dim.multiple_of > 2]
    candidates = primes or inside
    if not candidates:
        return dim.opt
    return candidates[0 if dim.name == BATCH else len(candidates) // 2]


def _prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
