"""Tasks in forked processes: computed there, and what cannot be computed there is computed here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from convkit.proof import Beside

PARENT = os.getpid()
FACTOR = {"value": 1.0}
"""What a patch may change after the processes were forked."""


class Product:
    """A task: a matrix product, and in which process it was computed. ``fault`` happens in other processes first."""

    def __init__(self, size: int, fault: Callable[[], object] = int) -> None:
        self.size, self.fault, self.outputs = size, fault, {}

    def run(self) -> dict[str, np.ndarray]:
        if os.getpid() != PARENT:
            self.fault()
        matrix = torch.arange(self.size**2, dtype=torch.float64).reshape(self.size, -1)
        return {
            "product": (FACTOR["value"] * matrix @ matrix).numpy(),
            "process": np.array(os.getpid()),
            "threads": np.array(torch.get_num_threads()),
        }

    @property
    def known(self) -> bool:
        return bool(self.outputs)

    def learn(self, outputs: Mapping[str, np.ndarray]) -> None:
        assert not self.outputs, "each task is learned once"
        self.outputs = dict(outputs)

    def right(self) -> np.ndarray:
        matrix = np.arange(self.size**2, dtype=np.float64).reshape(self.size, -1)
        return matrix @ matrix


@pytest.fixture(autouse=True)
def two_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def check(tasks: list[Product]) -> set[int]:
    """Check what all tasks learned, and return the processes that computed them."""
    for task in tasks:
        np.testing.assert_allclose(task.outputs["product"], task.right(), rtol=1e-14)
    return {int(task.outputs["process"]) for task in tasks}


def test_tasks_are_computed_in_other_processes_as_this_one_was(monkeypatch):
    torch.ones(1 << 20).add(1).sum()  # PyTorch's threads exist before the fork
    tasks = [Product(size) for size in (3, 40, 300, 5, 6)]
    counts: list[int] = []
    with Beside(tasks) as beside:
        monkeypatch.setitem(FACTOR, "value", 2.0)
        assert beside.works
        beside.finish(counts.append)
    assert PARENT not in check(tasks)
    assert {int(task.outputs["threads"]) for task in tasks} == {1}
    assert counts == sorted(counts)
    assert torch.get_num_threads() == 2


def test_what_this_process_computed_meanwhile_is_not_computed_again():
    go_on = multiprocessing.get_context("fork").Event()
    begun, own = [Product(4, go_on.wait), Product(5, go_on.wait)], [Product(6), Product(7)]
    counts: list[int] = []
    with Beside([*begun, *own]) as beside:
        for task in own:
            task.learn(task.run())
        go_on.set()
        beside.finish(counts.append)
    assert check(own) == {PARENT}
    assert PARENT not in check(begun)
    assert max(counts, default=4) == 4


def test_meanwhile_this_process_has_one_thread():
    with Beside([Product(3), Product(4)]) as beside:
        assert torch.get_num_threads() == 1
        beside.finish()
        assert torch.get_num_threads() == 2
    with Beside([Product(3), Product(4)]):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("threads", "tasks", "processes", "each", "own"),
    [(2, 5, 2, 1, 1), (3, 5, 3, 1, 1), (4, 9, 3, 1, 1), (8, 9, 6, 1, 2), (8, 2, 2, 3, 2)],
)
def test_a_quarter_of_many_threads_stays_here(threads, tasks, processes, each, own):
    torch.set_num_threads(threads)
    go_on = multiprocessing.get_context("fork").Event()
    made = [Product(4, go_on.wait) for _ in range(tasks)]
    with Beside(made) as beside:
        assert len(multiprocessing.active_children()) == processes
        assert torch.get_num_threads() == own
        go_on.set()
        beside.finish()
    assert {int(task.outputs["threads"]) for task in made} == {each}
    assert torch.get_num_threads() == threads


def test_threads_come_back_when_the_others_are_done():
    with Beside([Product(3), Product(4)]) as beside:
        while any(process.alive for process in beside._processes):
            time.sleep(0.01)
        beside.ease()
        assert torch.get_num_threads() == 2
    go_on = multiprocessing.get_context("fork").Event()
    with Beside([Product(3, go_on.wait), Product(4, go_on.wait)]) as beside:
        beside.ease()
        assert torch.get_num_threads() == 1
        go_on.set()


def test_one_task_has_all_threads():
    torch.ones(1 << 20).add(1).sum()
    tasks = [Product(400)]
    with Beside(tasks) as beside:
        beside.finish()
    assert PARENT not in check(tasks)
    assert int(tasks[0].outputs["threads"]) == 2


def exit_at_once() -> None:
    os._exit(3)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs() -> None:
    time.sleep(3600)


def raises() -> None:
    raise RuntimeError("not here")


@pytest.mark.parametrize("fault", [exit_at_once, killed, hangs, raises])
def test_what_fails_there_is_computed_here(fault, monkeypatch):
    monkeypatch.setattr("convkit.proof._beside.PATIENCE", 0.5)
    tasks = [Product(4), Product(5, fault), Product(6), Product(7, fault), Product(8)]
    with Beside(tasks) as beside:
        beside.finish()
    assert PARENT in check(tasks)
    assert {int(tasks[row].outputs["process"]) for row in (1, 3)} == {PARENT}


class Failing(Product):
    def run(self) -> dict[str, np.ndarray]:
        raise ValueError(f"in process {os.getpid()}")


def test_an_error_shows_where_the_tasks_are_finished():
    with Beside([Product(3), Failing(4)]) as beside, pytest.raises(ValueError, match=f"in process {PARENT}"):
        beside.finish()


def test_the_processes_end_with_the_block():
    with Beside([Product(3, hangs), Product(4, hangs)]):
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("threads", [1, 2])
def test_with_one_core_nothing_is_forked(threads, monkeypatch):
    torch.set_num_threads(threads)
    if threads > 1:
        monkeypatch.setattr("sys.platform", "darwin")
    tasks = [Product(3), Product(4)]
    with Beside(tasks) as beside:
        assert not beside.works
        beside.finish()
    assert check(tasks) == {PARENT}
