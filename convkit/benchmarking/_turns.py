"""Timing several engines in turns, A B A B, so that a busy moment hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeVar

from convkit.benchmarking._candidates import Candidate
from convkit.benchmarking._result import Cell, Memory, NotRun, Run
from convkit.benchmarking._settings import MIN_RUNS, BenchSettings
from convkit.errors import ConvkitError
from convkit.progress import Progress, silent

__all__ = ["Timed", "measure_in_turns"]


T = TypeVar("T")


class Timed(Protocol):
    """An engine that can be timed; `Subject` says what its methods do."""

    def prepare(self, scope: str, batch: int, warm_up: int) -> Run: ...
    def once(self) -> float: ...
    def finish(self) -> tuple[Memory, float | None]: ...


def measure_in_turns(
    engines: Mapping[Candidate, Timed],
    batches: Sequence[int],
    settings: BenchSettings,
    progress: Progress = silent,
    pause: Callable[[float], object] = time.sleep,
) -> tuple[list[Cell], list[NotRun]]:
    """Return the cells of all engines, scopes and batches, and what failed.

    At each batch all engines are warmed up first. Then they run in turns, once each in every round, and equally often:
    until there are as many runs as wanted, or the slowest has used up its seconds. One that fails takes no further part
    at that batch.
    """
    cells: list[Cell] = []
    failed: list[NotRun] = []
    places = [(scope, batch) for scope in settings.scopes for batch in batches]
    for number, (scope, batch) in enumerate(places):
        progress(f"timing the {scope}, batch {batch}", number, len(places))
        if settings.cool_down:
            pause(settings.cool_down)
        turns = _Turns(scope, batch, failed)
        prepared = {
            one: turns.attempt(one, partial(engine.prepare, scope, batch, settings.warm_up))
            for one, engine in engines.items()
        }
        runs = {one: run for one, run in prepared.items() if run is not None}
        times: dict[Candidate, list[float]] = {one: [] for one in runs}
        while times and _unfinished(times, settings):
            for one in list(times):
                seconds = turns.attempt(one, engines[one].once)
                if seconds is None:
                    del times[one]
                else:
                    times[one].append(seconds)
        for one, seconds_of in times.items():
            found = turns.attempt(one, engines[one].finish)
            if found is not None:
                memory, rate = found
                items = rate and rate * batch
                cells.append(Cell(one, scope, batch, tuple(seconds_of), runs[one], memory, items))
    return cells, failed


def _unfinished(times: Mapping[Candidate, Sequence[float]], settings: BenchSettings) -> bool:
    done = len(next(iter(times.values())))
    if done < MIN_RUNS:
        return True
    return done < settings.runs and max(map(sum, times.values())) < settings.seconds


class _Turns:
    """The engines at one scope and batch; what one of them raises is noted."""

    def __init__(self, scope: str, batch: int, failed: list[NotRun]) -> None:
        self._scope, self._batch, self._failed = scope, batch, failed

    def attempt(self, one: Candidate, call: Callable[[], T]) -> T | None:
        """Return what a call on an engine returns, or None where it fails."""
        try:
            return call()
        except ConvkitError as error:
            self._failed.append(NotRun(one, error.message.rstrip("."), self._scope, self._batch))
            return None
