"""What a benchmark found: the times of each engine and batch, what was not run, and the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convkit.benchmarking._candidates import Candidate

__all__ = ["Benchmark", "Cell", "Memory", "NotRun", "Run"]

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Memory:
    """Bytes that a process of its own took: before the first run, and at its peak; None where nobody can tell.

    ``device`` is what became less of the free memory of the GPU. ``whole`` says that the peak is that of the whole
    process so far, because the system does not reset it between batches.
    """

    loaded: int | None = None
    peak: int | None = None
    device: int | None = None
    whole: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {
            "loaded_bytes": self.loaded,
            "peak_bytes": self.peak,
            "device_bytes": self.device,
            "peak_of_the_whole_process": self.whole,
        }


@dataclass(frozen=True)
class Run:
    """How an engine was made ready: seconds of loading, of the runs that do not count, and which clock timed it.

    ``unproved`` says why no proof covers it; empty where one does.
    """

    load: float
    warm_up: tuple[float, ...]
    timer: str
    unproved: str = ""


@dataclass(frozen=True)
class Cell:
    """The times of one engine at one batch, in seconds for each run of a whole batch.

    ``rate`` is the throughput in items a second where batches overlap, so that the times do not give it; else None.
    """

    candidate: Candidate
    scope: str
    batch: int
    seconds: tuple[float, ...]
    run: Run
    memory: Memory = field(default_factory=Memory)
    rate: float | None = None

    @property
    def items_per_second(self) -> float:
        """The throughput."""
        return self.rate if self.rate is not None else self.batch * len(self.seconds) / sum(self.seconds)

    @property
    def latency(self) -> dict[str, float]:
        """Milliseconds for a batch: least, mean and largest, and percentiles by linear interpolation."""
        values = np.asarray(self.seconds) * 1e3
        table = {f"p{q}": float(np.percentile(values, q)) for q in PERCENTILES}
        return {"min": float(values.min()), "mean": float(values.mean()), **table, "max": float(values.max())}

    def to_json(self) -> dict[str, Any]:
        """Return the cell as a JSON object."""
        return {
            **self.candidate.to_json(),
            "scope": self.scope,
            "batch": self.batch,
            "runs": len(self.seconds),
            "latency_ms": {name: round(value, 6) for name, value in self.latency.items()},
            "items_per_second": round(self.items_per_second, 3),
            "warm_up": {
                "load_s": round(self.run.load, 4),
                "first_ms": round(self.run.warm_up[0] * 1e3, 6),
                "runs": len(self.run.warm_up),
                "total_ms": round(sum(self.run.warm_up) * 1e3, 6),
            },
            "memory": self.memory.to_json(),
            "timer": self.run.timer,
            "unproved": self.run.unproved,
        }


@dataclass(frozen=True)
class NotRun:
    """An engine that was not run, or not at a batch and scope, with the reason."""

    candidate: Candidate
    reason: str
    scope: str = ""
    batch: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object; scope and batch only where the reason is about them."""
        where = {"scope": self.scope, "batch": self.batch} if self.scope else {}
        return {**self.candidate.to_json(), **where, "reason": self.reason}


@dataclass(frozen=True)
class Benchmark:
    """The cells in the order in which they were measured, what was not run, and the protocol by name."""

    cells: tuple[Cell, ...]
    not_run: tuple[NotRun, ...]
    protocol: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the benchmark as a JSON object."""
        return {
            "protocol": dict(self.protocol),
            "results": [cell.to_json() for cell in self.cells],
            "not_run": [each.to_json() for each in self.not_run],
        }
