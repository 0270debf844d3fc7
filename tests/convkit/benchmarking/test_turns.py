"""Engines take turns, equally often, until there are enough runs or the slowest has had its time."""

from __future__ import annotations

from dataclasses import dataclass, field

from convkit.benchmarking import BenchSettings, Candidate
from convkit.benchmarking._result import Memory, Run
from convkit.benchmarking._turns import measure_in_turns
from convkit.errors import EnvironmentProblem

A, B = (Candidate(name, "fp32", "torch", "cpu") for name in ("a", "b"))


@dataclass
class Scripted:
    """An engine that takes ``seconds`` a run, and fails in the run of that number where it is asked to."""

    name: str
    log: list[str]
    seconds: float = 1.0
    fails_at: int = -1
    fails_to_prepare: int = -1
    rate: float | None = None
    batch: int = field(default=0, init=False)
    done: int = field(default=0, init=False)

    def prepare(self, scope: str, batch: int, warm_up: int) -> Run:
        self.log.append(f"{self.name}: {scope} {batch}")
        self.batch, self.done = batch, 0
        if batch == self.fails_to_prepare:
            raise EnvironmentProblem("out of memory.")
        return Run(0.5, (100.0,) * warm_up, "fake")

    def once(self) -> float:
        self.log.append(self.name)
        self.done += 1
        if self.done == self.fails_at:
            raise EnvironmentProblem("the process of the engine ended with signal SIGKILL")
        return self.seconds * self.batch

    def finish(self) -> tuple[Memory, float | None]:
        return Memory(1, 2), self.rate


def settings(**values) -> BenchSettings:
    return BenchSettings(scopes=("network",), **values)


def test_engines_run_in_turns_and_equally_often():
    log: list[str] = []
    cells, failed = measure_in_turns({A: Scripted("A", log), B: Scripted("B", log)}, [1], settings(runs=6, seconds=1e9))
    assert "".join(log[2:]) == "AB" * 6
    assert [len(cell.seconds) for cell in cells] == [6, 6]
    assert failed == []


def test_warm_up_does_not_count():
    (cell,), _ = measure_in_turns({A: Scripted("A", [], 0.25)}, [1], settings(runs=5, warm_up=2))
    assert cell.run.warm_up == (100.0, 100.0)
    assert cell.seconds == (0.25,) * 5
    assert cell.latency["max"] == 250.0


def test_the_slowest_ends_the_runs_of_all_but_not_before_the_fifth():
    engines = {A: Scripted("A", [], 1.0), B: Scripted("B", [], 0.001)}
    cells, _ = measure_in_turns(engines, [1], settings(runs=100, seconds=7.5))
    assert [len(cell.seconds) for cell in cells] == [8, 8]
    cells, _ = measure_in_turns(engines, [1], settings(runs=100, seconds=0))
    assert [len(cell.seconds) for cell in cells] == [5, 5]


def test_one_that_fails_takes_no_further_part_at_that_batch():
    log: list[str] = []
    engines = {A: Scripted("A", log, fails_at=2), B: Scripted("B", log, fails_to_prepare=4)}
    cells, failed = measure_in_turns(engines, [1, 4], settings(runs=5))
    assert [(cell.candidate, cell.batch) for cell in cells] == [(B, 1)]
    assert [(each.candidate, each.batch, each.reason) for each in failed] == [
        (A, 1, "the process of the engine ended with signal SIGKILL"),
        (B, 4, "out of memory"),
        (A, 4, "the process of the engine ended with signal SIGKILL"),
    ]


def test_throughput_is_that_of_the_stream_where_batches_overlap():
    engines = {A: Scripted("A", [], 0.5), B: Scripted("B", [], 0.5, rate=3.0)}
    plain, overlapped = measure_in_turns(engines, [4], settings(runs=5))[0]
    assert plain.items_per_second == 4 / (0.5 * 4)
    assert overlapped.items_per_second == 3.0 * 4


def test_each_batch_begins_after_a_rest():
    pauses: list[float] = []
    measure_in_turns({A: Scripted("A", [])}, [1, 2], settings(runs=5, cool_down=1.5), pause=pauses.append)
    assert pauses == [1.5, 1.5]
