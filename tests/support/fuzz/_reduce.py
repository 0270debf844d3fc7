"""A program that fails, made as small as it still fails at the same stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from support.fuzz._check import TARGETS, Fault, find_faults
from support.fuzz._program import Program, Step

__all__ = ["candidates", "reduce"]

_PLAIN = {
    "norm": False, "bias": False, "groups": 1, "stride": 1, "dilation": (1, 1), "pad": 0, "extra": 0, "align": False,
    "up": False, "count_pad": False,
}  # fmt: skip
"""Settings of steps that are simpler than others."""


def candidates(program: Program) -> Iterator[Program]:
    """Yield smaller programs: one that ends earlier, one with a step left out, one with a simpler setting."""
    steps = program.steps
    for end in range(1, len(steps)):
        yield Program(program.seed, steps[:end]).without_dead_steps()
    for place in range(len(steps), 0, -1):
        for other in steps[place - 1].reads:
            if len(steps) > 1:
                yield _left_out(program, place, other)
    for place, step in enumerate(steps):
        for name, plain in _PLAIN.items():
            value = step.settings.get(name, plain)
            simple = (plain, plain) if isinstance(value, tuple) and not isinstance(plain, tuple) else plain
            if value != simple:
                changed = replace(step, settings={**step.settings, name: simple})
                yield Program(program.seed, (*steps[:place], changed, *steps[place + 1 :]))


def _left_out(program: Program, place: int, other: int) -> Program:
    """Return the program in which what read the step at ``place`` reads ``other`` instead."""

    def moved(read: int) -> int:
        read = other if read == place else read
        return read - (read > place)

    kept = [
        Step(step.kind, tuple(moved(read) for read in step.reads), step.settings, step.seed)
        for number, step in enumerate(program.steps, 1) if number != place
    ]  # fmt: skip
    return Program(program.seed, tuple(kept)).without_dead_steps()


def reduce(fault: Fault, fails: Callable[[Program, int], Fault | None] | None = None, attempts: int = 60) -> Fault:
    """Return a fault of the same stage in the smallest program that was found in so many attempts.

    ``fails`` returns the fault of a program at a place in the sizes, None if it has none.
    """
    look = fails or _same_stage(fault.stage)
    simpler = (look(fault.program, sizes) for sizes in range(fault.sizes))
    found = next((other for other in simpler if other is not None), fault)
    left = attempts
    shrunk = True
    while shrunk and left:
        shrunk = False
        for smaller in candidates(found.program):
            if not left:
                break
            left -= 1
            again = look(smaller, found.sizes)
            if again is not None:
                found, shrunk = again, True
                break
    return found


def _same_stage(stage: str) -> Callable[[Program, int], Fault | None]:
    label = stage.partition(" on ")[0]

    def look(program: Program, sizes: int) -> Fault | None:
        try:
            outcome = find_faults([program], sizes, [label] if label in TARGETS else [])
        except Exception:
            return None  # the program does not fit together any more
        return next((fault for fault in outcome.faults if fault.stage == stage), None)

    return look
