"""The batch that memory has room for."""

from __future__ import annotations

import numpy as np
import pytest

from convkit.runtime._batch_size import Memory, fitting_batch, memory_of


class Machine:
    """A machine on which a model takes so much for itself and for each item."""

    def __init__(self, *, free: int, model: int = 0, item: int) -> None:
        self.total, self.model, self.item = free, model, item
        self.peak = 0
        self.sizes: list[int] = []

    def trial(self, size: int) -> None:
        self.sizes.append(size)
        self.peak = max(self.peak, self.model + size * self.item)
        assert self.peak <= self.total, "out of memory"

    def fit(self, least: int, most: int) -> int:
        return fitting_batch(self.trial, Memory(lambda: self.peak, lambda: self.total - self.peak), least, most)


@pytest.mark.parametrize(
    ("machine", "least", "most", "expected"),
    [
        (Machine(free=1000, item=10), 1, 8, 8),
        (Machine(free=1000, item=10), 1, 1000, 500 // 10),
        (Machine(free=1000, item=10), 4, 1000, 500 // 10),
        (Machine(free=1000, model=400, item=10), 1, 1000, 1),  # the model's part cannot be told from the item's
        (Machine(free=1000, model=100, item=10), 1, 1000, 500 // (180 / 8)),
        (Machine(free=80_000, model=1000, item=50), 1, 128, 128),  # a small network on a large GPU
        (Machine(free=100, item=60), 1, 8, 1),
        (Machine(free=1000, item=0), 1, 8, 8),
        (Machine(free=1000, item=10), 3, 3, 3),
    ],
)
def test_the_batch_takes_at_most_half_of_what_is_free(machine, least, most, expected):
    assert machine.fit(least, most) == expected
    assert max(machine.sizes) <= min(expected, 16 * least)
    machine.trial(expected)


def test_the_memory_of_this_process_is_measured():
    memory = memory_of("cpu")
    before, free = memory.taken(), memory.free()
    block = np.ones(20_000_000)
    assert 150e6 < memory.taken() - before < 400e6
    assert free > 0
    del block
