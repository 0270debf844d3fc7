"""Programs: lists of typed steps, random ones by seed, readable as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Program", "Step", "Type", "generate"]

CHANNELS = 4
"""Channels of the input, which has four axes: batch, channels, height, width."""


@dataclass(frozen=True)
class Type:
    """The shape of a value behind the batch: channels as a number, the other sizes by how they are computed.

    Two sizes of the same text are equal for every size of the input.
    """

    channels: int
    sizes: tuple[str, ...]

    @property
    def image(self) -> bool:
        return len(self.sizes) == 2

    @property
    def vector(self) -> bool:
        return not self.sizes


@dataclass(frozen=True)
class Step:
    """One operation: its kind, the values that it reads (0 is the input, n the result of step n), and its settings."""

    kind: str
    reads: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __str__(self) -> str:
        given = [f"v{place}" for place in self.reads]
        return f"{self.kind}({', '.join([*given, *(f'{key}={value}' for key, value in self.settings.items())])})"


@dataclass(frozen=True)
class Program:
    """Steps whose last one is the result."""

    seed: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = [f"v0 = input [batch, {CHANNELS}, height, width]"]
        lines += [f"v{place} = {step}" for place, step in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"return v{len(self.steps)}"])

    def without_dead_steps(self) -> Program:
        """Return the program without steps that nothing reads."""
        needed, waiting = {len(self.steps)}, [len(self.steps)]
        while waiting:
            place = waiting.pop()
            for read in self.steps[place - 1].reads if place else ():
                if read not in needed:
                    needed.add(read)
                    waiting.append(read)
        order = {0: 0, **{old: new for new, old in enumerate(sorted(needed - {0}), 1)}}
        kept = [
            Step(step.kind, tuple(order[read] for read in step.reads), step.settings, step.seed)
            for place, step in enumerate(self.steps, 1) if place in needed
        ]  # fmt: skip
        return Program(self.seed, tuple(kept))


class Draw:
    """The random numbers of a program."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(self.rng.integers(low, high + 1))

    def of(self, *options: Any) -> Any:
        return options[self.whole(0, len(options) - 1)]

    def flag(self) -> bool:
        return bool(self.whole(0, 1))


Made = tuple[Mapping[str, Any], Type]
Maker = Callable[[Draw, Sequence[Type]], "Made | None"]
KINDS: dict[str, tuple[int, Maker]] = {}
"""By kind: how many values it reads, and what draws its settings for values of these types (None: they do not suit)."""


def kind(reads: int = 1) -> Callable[[Maker], Maker]:
    def enter(maker: Maker) -> Maker:
        KINDS[maker.__name__] = reads, maker
        return maker

    return enter


def generate(seed: int, length: int = 6) -> Program:
    """Return the program of a seed, of ``length`` steps before those that nothing reads are left out."""
    from support.fuzz import _kinds

    del _kinds  # imported to enter the kinds
    draw, types, steps = Draw(seed), [Type(CHANNELS, ("h", "w"))], []
    names = list(KINDS)
    for _ in range(200):
        if len(steps) == length:
            break
        name = names[draw.whole(0, len(names) - 1)]
        count, maker = KINDS[name]
        latest = len(types) - 1
        reads = (latest, *(draw.whole(0, latest) for _ in range(count - 1)))
        made = maker(draw, [types[read] for read in reads])
        if made is not None and made[1].channels <= 64:
            steps.append(Step(name, reads, made[0], draw.whole(0, 2**31 - 1)))
            types.append(made[1])
    return Program(seed, tuple(steps)).without_dead_steps()
