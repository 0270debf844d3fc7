"""How long each stage of a conversion took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from convkit.errors import at_stage

__all__ = ["StageClock"]


class StageClock:
    """Adds up the seconds of stages by their names, in ``seconds``, and names the stage in the errors of its block."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, plugin: str = "") -> Iterator[None]:
        """Time a block as a stage; ``plugin`` is the one that is blamed for it, see `at_stage`."""
        started = time.perf_counter()
        try:
            with at_stage(name, plugin):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
