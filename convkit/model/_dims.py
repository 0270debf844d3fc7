"""Named dimensions: the ranges in which a model is proved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from convkit.errors import SettingError, suggest

__all__ = ["Dim", "apply_overrides", "parse_shape"]

_NAME = r"[a-z_][a-z0-9_]*"


@dataclass(frozen=True)
class Dim:
    """A named dimension with the range in which the artifact is proved.

    ``min``, ``opt`` and ``max`` are sizes as in a TensorRT optimisation profile; equal ones make
    the dimension static. Every size must be a multiple of ``multiple_of``.
    """

    name: str
    min: int
    opt: int
    max: int
    multiple_of: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(_NAME, self.name):
            raise SettingError(
                f"{self.name!r} is no name of a dimension.", hint="Use small letters, digits and underscores."
            )
        if not 1 <= self.min <= self.opt <= self.max:
            raise SettingError(
                f"Dimension {self.name!r} has the range {self.min}:{self.opt}:{self.max}.",
                hint="Give 1 <= MIN <= OPT <= MAX, for example --shape batch=1:4:8.",
            )
        for size in (self.min, self.opt, self.max):
            if size % self.multiple_of:
                below = size // self.multiple_of * self.multiple_of
                above = below + self.multiple_of
                raise SettingError(
                    f"Dimension {self.name!r} cannot be {size}: this model needs a multiple of {self.multiple_of}.",
                    hint=f"The nearest sizes are {below} and {above}." if below else f"The smallest size is {above}.",
                )

    @classmethod
    def fixed(cls, name: str, size: int, *, multiple_of: int = 1) -> Dim:
        """Return a static dimension."""
        return cls(name, size, size, size, multiple_of)

    @property
    def dynamic(self) -> bool:
        """Whether the graph accepts more than one size."""
        return self.min != self.max

    def __str__(self) -> str:
        return f"{self.name}={self.min}:{self.opt}:{self.max}" if self.dynamic else f"{self.name}={self.opt}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "name": self.name,
            "min": self.min,
            "opt": self.opt,
            "max": self.max,
            "multiple_of": self.multiple_of,
        }


def parse_shape(text: str) -> tuple[str, int, int, int]:
    """Parse ``NAME=N`` or ``NAME=MIN:OPT:MAX``; raise `SettingError` for anything else."""
    match = re.fullmatch(rf"({_NAME})=(\d+)(?::(\d+):(\d+))?", text.strip())
    if not match:
        raise SettingError(
            f"--shape {text!r} is not a shape.",
            hint="Write NAME=N for a fixed size or NAME=MIN:OPT:MAX for a range, for example --shape batch=1:4:8.",
        )
    name, low, opt, high = match.groups()
    return name, int(low), int(opt or low), int(high or low)


def apply_overrides(dims: Iterable[Dim], shapes: Iterable[str]) -> tuple[Dim, ...]:
    """Return ``dims`` with the ranges that ``shapes`` (as in `parse_shape`) ask for."""
    table = {dim.name: dim for dim in dims}
    seen: set[str] = set()
    for text in shapes:
        name, low, opt, high = parse_shape(text)
        if name not in table:
            raise SettingError(
                f"This adapter has no dimension {name!r}.",
                hint=f"Its dimensions are {', '.join(table)}. {suggest(name, table)}",
            )
        if name in seen:
            raise SettingError(f"--shape gives {name!r} twice.", hint="Give each dimension once.")
        seen.add(name)
        table[name] = replace(table[name], min=low, opt=opt, max=high)
    return tuple(table.values())
