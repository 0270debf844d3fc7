"""How a benchmark is run."""

from __future__ import annotations

from dataclasses import dataclass

from convkit.benchmarking._candidates import SCOPES
from convkit.errors import SettingError, suggest

__all__ = ["MIN_RUNS", "BenchSettings"]

MIN_RUNS = 5
"""Timed runs of each engine and batch at least, however long they take."""


@dataclass(frozen=True)
class BenchSettings:
    """What is measured, and how often.

    ``backends`` and ``devices`` are all that there are where they are empty, ``batches`` the powers of two in the
    range of the artifacts. Each engine is timed ``runs`` times a batch, or fewer times where that takes longer than
    ``seconds``. ``warm_up`` runs before them do not count. ``cool_down`` is a pause in seconds before each batch.
    ``threads`` is the number of cores that an engine may use; None: what ``OMP_NUM_THREADS`` says, else all.
    ``unproved`` also runs what no proof covers.

    Raises:
        SettingError: a value cannot be obeyed.
    """

    backends: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    scopes: tuple[str, ...] = SCOPES
    runs: int = 30
    seconds: float = 5.0
    warm_up: int = 3
    cool_down: float = 0.0
    threads: int | None = None
    unproved: bool = False

    def __post_init__(self) -> None:
        for scope in self.scopes:
            if scope not in SCOPES:
                raise SettingError(
                    f"There is no scope {scope!r}.", hint=f"{suggest(scope, SCOPES)} Use {' or '.join(SCOPES)}."
                )
        least = {"runs": MIN_RUNS, "seconds": 0, "warm_up": 1, "cool_down": 0, "threads": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                flag = f"--{name.replace('_', '-')}"
                raise SettingError(f"{flag} is {value}.", hint=f"Give {low} or more.")
